"""How the page looks: fonts of the visitor's own system, and few rules beside Gradio's."""

from __future__ import annotations

from typing import Final

import gradio as gr

CLASSES: Final = "zegment-classes"
"""Id of the legend, whose boxes carry the colours."""

_FONTS: Final = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")

STYLE: Final = f"""
.gradio-container {{ max-width: 1240px !important; margin: 0 auto !important; }}
#zegment-title h1 {{ font-size: 1.6rem; margin: 0.4rem 0 0; }}
#zegment-title p {{ color: var(--body-text-color-subdued); margin: 0.1rem 0 0.4rem; }}
#zegment-result img {{ cursor: crosshair; }}
#{CLASSES} label {{ padding: 4px 10px 4px 8px; }}
#{CLASSES} label::before {{
  content: ""; width: 14px; height: 14px; margin-right: 7px; border-radius: 3px; flex: none;
  background: var(--class, transparent); box-shadow: inset 0 0 0 1px rgb(127 127 127 / 45%);
}}
#{CLASSES} label:not(.selected) span {{ opacity: 0.55; }}
#zegment-picture img {{ width: 100%; height: 100%; object-fit: contain; }}
#zegment-notes, #zegment-pixel {{ min-height: 1.4em; line-height: 1.5; padding: 0 4px; }}
#zegment-notes, #zegment-pixel, #zegment-notes .html-container, #zegment-pixel .html-container {{
  padding-top: 0 !important; padding-bottom: 0 !important; }}
#zegment-notes div {{ color: var(--body-text-color-subdued); font-size: 0.88rem;
  overflow-wrap: anywhere; }}
#zegment-pixel span {{ margin-right: 14px; overflow-wrap: anywhere; }}
#zegment-pixel i {{ display: inline-block; width: 14px; height: 14px; margin-right: 6px;
  border-radius: 3px; vertical-align: -2px; box-shadow: inset 0 0 0 1px rgb(127 127 127 / 45%); }}
"""


def theme() -> gr.themes.Base:
    """Return a theme that needs no font from elsewhere."""
    look = gr.themes.Default(
        primary_hue="blue",
        secondary_hue="blue",
        neutral_hue="slate",
        radius_size="sm",
        font=list(_FONTS),
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    )
    # The boxes of the legend carry the colours of classes; they must not compete with others.
    return look.set(
        checkbox_label_background_fill_selected="*checkbox_label_background_fill",
        checkbox_label_background_fill_selected_dark="*checkbox_label_background_fill",
        checkbox_label_text_color_selected="*checkbox_label_text_color",
        checkbox_label_text_color_selected_dark="*checkbox_label_text_color",
    )
