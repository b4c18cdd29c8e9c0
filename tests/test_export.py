"""Exported graphs against the models they were made from, and what is refused."""

import builtins
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_tiny_clip
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from zegment.checkpoint import load_trained
from zegment.clip_loading import load_clip
from zegment.config import Config, ModelConfig, WindowConfig, ZegClipConfig
from zegment.errors import (
    CheckpointError,
    ConfigError,
    OutputError,
    UnsupportedModelError,
    VocabularyError,
)
from zegment.export import folder as export_module
from zegment.export.folder import Export, export
from zegment.export.graph import GraphFacts
from zegment.export.tracing import score_function, to_onnx, trace
from zegment.models.base import SegmentationModel
from zegment.models.build import build_model
from zegment.models.closed_set import ClosedSetNetwork
from zegment.models.exported import ExportedModel, load_exported
from zegment.models.segnext import SegNeXt, SegNeXtVariant
from zegment.models.student import Student
from zegment.segmenter import Segmenter, load
from zegment.trained import Trained
from zegment.vocabulary import Vocabulary

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("torch", minversion="2.7")

CPU = torch.device("cpu")
SHAPES = [(1, (1, 1), 1), (1, (4, 4), 5), (3, (2, 7), 5), (1, (9, 5), 300), (2, (12, 12), 1)]
"""Images, cells of their grid, classes; 4 × 4 is the grid that the tiny CLIP was made for."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def student(place: Path) -> Export:
    return export("shapes-clip-zss", place / "student")


@pytest.fixture(scope="module")
def zegclip_model(place: Path) -> Trained:
    """Return a ZegCLIP that is small, has random weights, and lies on a CLIP in a folder."""
    folder = save_tiny_clip(place / "clip")
    config = Config(
        model=ModelConfig(
            kind="zegclip",
            clip=str(folder),
            zegclip=ZegClipConfig(prompt_tokens=3, decoder_heads=2),
        ),
        windows=WindowConfig(short_side=48, size=32, stride=16),
    )
    clip = load_clip(str(folder))
    torch.manual_seed(0)
    return Trained(
        config=config,
        model=build_model(config.model, clip).eval(),
        text_tower=clip.text_tower,
        fingerprint=clip.fingerprint,
        vocabulary=Vocabulary(class_names=("cat", "sofa", "grass")),
        seen=("cat", "grass"),
    )


@pytest.fixture(scope="module")
def zegclip(place: Path, zegclip_model: Trained) -> Export:
    return export(zegclip_model, place / "zegclip")


@pytest.fixture(scope="module")
def frozen(place: Path, zegclip_model: Trained) -> Export:
    words = Vocabulary(
        class_names=("Cat", "tree", "grass"),
        synonyms=((), ("bush",), ()),
        combine="max",
    )
    return export(zegclip_model, place / "frozen", classes=words)


@pytest.fixture(scope="module")
def dense(place: Path, zegclip_model: Trained) -> Export:
    return export(zegclip_model.config.model.clip, place / "dense")


def texts(count: int, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return F.normalize(torch.randn(count, dim, generator=generator), dim=1)


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def assert_equal_at_every_shape(eager: SegmentationModel, exported: ExportedModel) -> None:
    dim = exported.facts.embed_dim
    for batch, (rows, columns), classes in SHAPES:
        image = torch.randn(batch, 3, rows * eager.patch_size, columns * eager.patch_size)
        ours = exported(image, texts(classes, dim))
        with torch.no_grad():
            theirs = eager(image, texts(classes, dim))
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


class TestEqualsEager:
    def test_student(self, student: Export) -> None:
        eager = load_trained("shapes-clip-zss", device="cpu").model
        assert_equal_at_every_shape(eager, exported_model(student))
        assert student.difference < 1e-4

    def test_zegclip(self, zegclip: Export, zegclip_model: Trained) -> None:
        assert_equal_at_every_shape(zegclip_model.model, exported_model(zegclip))

    @pytest.mark.parametrize(("layers", "relation"), [(0, "text"), (1, "difference_text")])
    def test_zegclip_with_other_prompts_and_queries(
        self, place: Path, zegclip_model: Trained, layers: int, relation: str
    ) -> None:
        own = ZegClipConfig(
            prompt_tokens=3, decoder_heads=2, prompt_layers=layers, relation=relation
        )
        clip = load_clip(zegclip_model.config.model.clip)
        model = build_model(ModelConfig(zegclip=own), clip).eval()
        assert_equal_at_every_shape(model, through_a_file(model, place / f"{relation}.onnx"))

    def test_dense_clip(self, dense: Export, zegclip_model: Trained) -> None:
        eager = load_trained(zegclip_model.config.model.clip, device="cpu").model
        assert_equal_at_every_shape(eager, exported_model(dense))

    def test_other_students(self, place: Path) -> None:
        torch.manual_seed(0)
        small = SegNeXtVariant(dims=(8, 16, 16, 32), depths=(1, 1, 1, 1), ham_channels=64)
        networks = {
            "segnext": SegNeXt(small, embed_dim=16),
            "unet": ClosedSetNetwork("unet", "tu-test_resnet", weights=None, embed_dim=16),
        }
        networks["segnext"].decode_head.hamburger.ham.eval_steps = 2  # the loop is unrolled
        for name, network in networks.items():
            model = Student(network, mean=(0.5,) * 3, std=(0.25,) * 3).eval()
            assert_equal_at_every_shape(model, through_a_file(model, place / f"{name}.onnx"))

    def test_permuting_classes_permutes_logits(self, student: Export) -> None:
        model, order = exported_model(student), torch.tensor([3, 0, 4, 1, 2])
        image, rows = torch.randn(1, 3, 32, 40), texts(5, 128)
        torch.testing.assert_close(model(image, rows)[:, order], model(image, rows[order]))

    def test_each_image_may_have_embeddings_of_its_own(self, student: Export) -> None:
        model = exported_model(student)
        images, rows = torch.randn(2, 3, 16, 24), texts(6, 128).unflatten(0, (2, 3))
        assert torch.equal(model(images, rows)[1:], model(images[1:], rows[1]))


class TestSegmenter:
    @pytest.mark.parametrize("classes", [None, "water, moon, ball", "gate, moon"])
    def test_labels_are_those_of_the_student(self, student: Export, classes: str | None) -> None:
        image = photo(70, 110)
        ours = load(student.folder, device="cpu")(image, classes)
        theirs = load("shapes-clip-zss", device="cpu")(image, classes)
        assert ours.class_names == theirs.class_names
        tied = ours.labels != theirs.labels
        assert tied.mean() < 1e-3
        assert np.abs(ours.confidence - theirs.confidence).max() < 1e-4

    def test_labels_are_those_of_zegclip(self, zegclip: Export, zegclip_model: Trained) -> None:
        image = photo(50, 61)
        ours = Segmenter.of(load_exported(zegclip.folder, CPU))
        theirs = Segmenter.of(zegclip_model)
        assert ours.windows == theirs.windows
        assert ours.calibration == theirs.calibration
        assert ours.seen == theirs.seen
        for classes in (None, ["dog", "sofa"]):
            different = ours(image, classes).labels != theirs(image, classes).labels
            assert different.mean() < 1e-3

    def test_graph_itself_names_the_model(self, student: Export) -> None:
        model = load(student.folder / "model.onnx", device="cpu").model
        assert isinstance(model, ExportedModel)

    def test_known_words_need_no_clip(
        self, zegclip: Export, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("zegment.models.exported.load_text_tower", never)
        monkeypatch.setattr("zegment.checkpoint.load_clip", never)
        segmenter = load(zegclip.folder, device="cpu")
        assert segmenter(photo(40, 40)).class_names == ("cat", "sofa", "grass")
        with pytest.raises(ZeroDivisionError):
            segmenter.query("dog")

    def test_dense_clip_runs_without_its_image_tower(
        self, dense: Export, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("zegment.checkpoint.load_clip", never)
        labels = load(dense.folder, device="cpu")(photo(40, 52), "cat, sofa").labels
        assert labels.shape == (40, 52)


class TestFrozen:
    def test_graph_takes_images_alone(self, frozen: Export, zegclip_model: Trained) -> None:
        session = onnxruntime.InferenceSession(str(frozen.folder / "model.onnx"))
        assert [(i.name, i.shape) for i in session.get_inputs()] == [
            ("image", ["batch", 3, "height", "width"])
        ]
        (output,) = session.get_outputs()
        assert output.shape == ["batch", 4, "grid_height", "grid_width"]
        image = torch.randn(2, 3, 24, 40)
        rows = zegclip_model.text_tower(
            [f"a photo of a {name}" for name in ("Cat", "tree", "bush", "grass")]
        )
        with torch.no_grad():
            theirs = zegclip_model.model(image, rows)
        (ours,) = session.run(None, {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=0, atol=1e-3)

    def test_metadata_name_the_class_of_each_channel(self, frozen: Export) -> None:
        metadata = {p.key: p.value for p in onnx.load(frozen.folder / "model.onnx").metadata_props}
        assert json.loads(metadata["zegment.class_names"]) == ["Cat", "tree", "tree", "grass"]
        assert json.loads(metadata["zegment.mean"]) == [0.5, 0.5, 0.5]
        assert json.loads(metadata["zegment.std"]) == [0.25, 0.25, 0.25]
        assert json.loads(metadata["zegment.patch_size"]) == 8
        assert json.loads(metadata["zegment.scores"]) == "sigmoid"

    def test_answers_for_some_of_its_classes_in_any_order(
        self, frozen: Export, zegclip_model: Trained
    ) -> None:
        ours, theirs = load(frozen.folder, device="cpu"), Segmenter.of(zegclip_model)
        assert ours.vocabulary is not None
        for classes in (None, "grass, Cat"):
            query = ours.query(classes)
            labels = ours.segment(photo(40, 56), query).labels
            wanted = theirs.segment(photo(40, 56), theirs.query(query.vocabulary)).labels
            assert (labels != wanted).mean() < 1e-3
        assert ours.query().vocabulary.synonyms == ((), ("bush",), ())
        # Classes that had masks are recognised in another spelling.
        assert ours.seen == ("Cat", "grass")

    def test_a_class_with_synonyms_answers_to_its_name_alone(self, frozen: Export) -> None:
        segmenter = load(frozen.folder, device="cpu")
        alone = segmenter(photo(40, 56), "grass, tree").labels
        spelled = segmenter.query(
            Vocabulary(class_names=("grass", "tree"), synonyms=((), ("bush",)), combine="max")
        )
        assert np.array_equal(alone, segmenter.segment(photo(40, 56), spelled).labels)

    def test_other_words_are_refused_before_any_image(self, frozen: Export) -> None:
        with pytest.raises(VocabularyError, match="export it again"):
            load(frozen.folder, device="cpu").query("grass, lawn")

    def test_other_words_are_refused(self, frozen: Export) -> None:
        segmenter = load(frozen.folder, device="cpu")
        with pytest.raises(VocabularyError, match=r"classes alone \(Cat, tree, grass\).*again"):
            segmenter(photo(40, 40), "dog")
        with pytest.raises(VocabularyError, match="export it again"):
            segmenter.model(torch.zeros(1, 3, 8, 8), texts(2, 16))


class TestQuantised:
    def test_student_is_smaller_and_nearly_the_same(self, place: Path, student: Export) -> None:
        small = export("shapes-clip-zss", place / "int8", quantise=True)
        assert small.facts.precision == "int8"
        assert small.size < student.size / 3
        assert 1e-3 < small.difference < 0.5
        from zegment.data.shapes import ShapesDataset

        images = torch.stack([ShapesDataset("test", length=4, size=96)[i][0] for i in range(4)])
        ours, theirs = load(small.folder, device="cpu"), load(student.folder, device="cpu")
        same = ours.label(images, ours.query())[0] == theirs.label(images, theirs.query())[0]
        assert same.float().mean() > 0.98


class TestFile:
    def test_axes_have_names_and_facts_are_whole(self, student: Export) -> None:
        session = onnxruntime.InferenceSession(str(student.folder / "model.onnx"))
        assert {i.name: i.shape for i in session.get_inputs()} == {
            "image": ["batch", 3, "height", "width"],
            "text_embeddings": ["classes", 128],
        }
        assert [o.shape for o in session.get_outputs()] == [
            ["batch", "classes", "grid_height", "grid_width"]
        ]
        onnx.checker.check_model(onnx.load(student.folder / "model.onnx"), full_check=True)
        assert (
            GraphFacts.from_metadata(session.get_modelmeta().custom_metadata_map) == student.facts
        )

    def test_nothing_of_this_machine_is_in_it(self, student: Export) -> None:
        content = (student.folder / "model.onnx").read_bytes()
        assert str(Path(export_module.__file__).parent).encode() not in content
        assert b"site-packages" not in content

    def test_folder_is_a_checkpoint_without_weights(self, student: Export) -> None:
        assert sorted(path.name for path in student.folder.iterdir()) == [
            "config.json",
            "model.onnx",
            "preprocessing.json",
            "text.safetensors",
            "vocabulary.json",
        ]

    def test_command_writes_the_same_bytes(self, place: Path, student: Export) -> None:
        from zegment.commands.export import export as command

        out = place / "by-command"
        result = run_command(command, "shapes-clip-zss", "--out", str(out))
        assert result.exit_code == 0, result.output
        assert "MB float32" in result.output
        for path in student.folder.iterdir():
            assert (out / path.name).read_bytes() == path.read_bytes(), path.name


class TestRefusals:
    def test_sides_must_be_multiples(self, student: Export) -> None:
        model = exported_model(student)
        with pytest.raises(ValueError, match="30×32 pixels: both sides must be multiples of 4"):
            model(torch.zeros(1, 3, 30, 32), texts(2, 128))
        with pytest.raises(ValueError, match="64 dimensions for a model of 128"):
            model(torch.zeros(1, 3, 32, 32), texts(2, 64))

    def test_foreign_files_are_never_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "notes.txt").write_text("precious")
        with pytest.raises(OutputError, match=r"notes\.txt.*give another folder"):
            export("shapes-clip-zss", tmp_path, replace=True)
        assert (tmp_path / "notes.txt").read_text() == "precious"

    def test_folder_with_content_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("mine")
        with pytest.raises(OutputError, match="already has content"):
            export("shapes-clip-zss", tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

    def test_graph_that_differs_is_not_written(
        self, tmp_path: Path, student: Export, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = onnx.load(student.folder / "model.onnx")
        other.graph.initializer.remove(
            weight := next(t for t in other.graph.initializer if t.name.endswith("smooth.0.weight"))
        )
        wrong = onnx.numpy_helper.to_array(weight) * 1.01
        other.graph.initializer.append(onnx.numpy_helper.from_array(wrong, weight.name))
        monkeypatch.setattr(export_module, "trace", lambda *_, **__: None)
        monkeypatch.setattr(export_module, "to_onnx", lambda *_: other)
        with pytest.raises(CheckpointError, match=r"differs from the model by .* 20 × 36 pixels"):
            export("shapes-clip-zss", tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("package", ["onnxscript", "onnxruntime"])
    def test_missing_package_names_the_extra(
        self, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(export_module, "find_spec", lambda name: None if name == package else 1)
        with pytest.raises(ConfigError, match=rf'{package}: pip install "zegment\[onnx\]"'):
            export("shapes-clip-zss", tmp_path / "out")

    def test_old_torch_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(export_module, "OLDEST_TORCH", "99.1")
        with pytest.raises(ConfigError, match=r"PyTorch 99\.1 or later"):
            export("shapes-clip-zss", tmp_path / "out")

    def test_running_without_onnxruntime_names_the_extra(
        self, student: Export, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        imported = builtins.__import__

        def refuse(name: str, *arguments: object, **others: object) -> object:
            if name == "onnxruntime":
                raise ImportError(name)
            return imported(name, *arguments, **others)  # type: ignore[arg-type]

        monkeypatch.setattr(builtins, "__import__", refuse)
        with pytest.raises(ConfigError, match=r'pip install "zegment\[onnx\]"'):
            load_exported(student.folder, CPU)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda f: (f / "model.onnx").unlink(), "no exported model"),
            (lambda f: (f / "model.onnx").write_bytes(b"no graph"), "finds it damaged"),
            (lambda f: rewrite(f, strip), "not made by Zegment"),
            (lambda f: rewrite(f, forget_the_mean), "metadata of this ONNX file are damaged"),
            (lambda f: (f / "text.safetensors").write_bytes(b"{}"), "text.safetensors"),
            (lambda f: (f / "vocabulary.json").write_text('{"class_names": []}'), "vocabulary"),
            (lambda f: (f / "config.json").write_text('{"format": 9}'), "format 9"),
        ],
        ids=["missing", "junk", "foreign", "facts", "text", "vocabulary", "format"],
    )
    def test_damage_is_told(
        self, student: Export, tmp_path: Path, damage: Callable[[Path], object], message: str
    ) -> None:
        folder = tmp_path / "damaged"
        shutil.copytree(student.folder, folder)
        damage(folder)
        with pytest.raises(CheckpointError, match=message):
            load_exported(folder, CPU)

    @pytest.mark.parametrize(
        ("key", "value"),
        [("mean", [0.5]), ("std", [1, 1, 0]), ("patch_size", -4), ("embed_dim", 1.5)],
    )
    def test_metadata_that_cannot_be_are_refused(
        self, student: Export, key: str, value: object
    ) -> None:
        metadata = student.facts.to_metadata() | {f"zegment.{key}": json.dumps(value)}
        with pytest.raises(CheckpointError, match=f"damaged.*{key}"):
            GraphFacts.from_metadata(metadata)

    def test_files_that_do_not_belong_together_are_refused(
        self, student: Export, frozen: Export, tmp_path: Path
    ) -> None:
        def mixed(name: str) -> Path:
            return Path(shutil.copytree(student.folder, tmp_path / name))

        shutil.copy(frozen.folder / "model.onnx", mixed("graph") / "model.onnx")
        with pytest.raises(CheckpointError, match="not the graph of this folder"):
            load(tmp_path / "graph")
        text = mixed("text") / "text.safetensors"
        rows = load_file(text)
        save_file(dict(zip(rows, reversed(list(rows.values())), strict=True)), text)
        with pytest.raises(CheckpointError, match=r"text\.safetensors does not hold what was"):
            load(tmp_path / "text")
        assert json.loads((student.folder / "config.json").read_text())["sha256"].keys() == {
            "text.safetensors"
        }
        (mixed("gone") / "model.onnx").unlink()
        with pytest.raises(CheckpointError, match=r"model\.onnx"):
            load(tmp_path / "gone")
        (mixed("words") / "vocabulary.json").unlink()
        with pytest.raises(CheckpointError, match=r"lacks vocabulary\.json"):
            load(tmp_path / "words")
        path = mixed("preprocessing") / "preprocessing.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"patch_size": 7}))
        with pytest.raises(CheckpointError, match="patch_size is 7"):
            load(tmp_path / "preprocessing")

    def test_vocabulary_of_another_graph_is_refused(self, frozen: Export, tmp_path: Path) -> None:
        folder = tmp_path / "mixed"
        shutil.copytree(frozen.folder, folder)
        table = json.loads((folder / "vocabulary.json").read_text())
        table["class_names"] = table["class_names"][::-1]
        table["synonyms"] = []
        (folder / "vocabulary.json").write_text(json.dumps(table))
        with pytest.raises(CheckpointError, match="of another model: the graph was made for Cat"):
            load_exported(folder, CPU)

    def test_exported_model_is_neither_exported_again_nor_trained(
        self, student: Export, tmp_path: Path
    ) -> None:
        trained = load_exported(student.folder, CPU)
        with pytest.raises(ConfigError, match="exported already"):
            export(trained, tmp_path / "out")
        with pytest.raises(ConfigError, match="cannot be trained"):
            trained.model.check_batch((32, 32), batch=2, training=True)
        trained.model.check_batch((32, 32), batch=2, training=False)

    def test_model_that_no_file_can_hold_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("zegment.export.tracing.LARGEST_FILE", 3_000_000)
        with pytest.raises(UnsupportedModelError, match="weights, and an ONNX file holds at most"):
            export("shapes-clip-zss", tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_scores_that_no_file_can_say_are_refused(self, zegclip_model: Trained) -> None:
        class Other(type(zegclip_model.model)):  # type: ignore[misc]
            def scores(self, logits: Tensor) -> Tensor:
                return logits.tanh()

        with pytest.raises(UnsupportedModelError, match="Other makes scores"):
            score_function(Other.__new__(Other))


class TestTracing:
    """Programs of torch.export and torch.compile, without ONNX."""

    @pytest.fixture(params=["student", "zegclip", "dense"])
    def eager(self, request: pytest.FixtureRequest, zegclip_model: Trained) -> SegmentationModel:
        if request.param == "zegclip":
            return zegclip_model.model
        folder = zegclip_model.config.model.clip
        name = {"student": "shapes-clip-zss", "dense": folder}[request.param]
        return load_trained(name, device="cpu").model

    def test_one_program_serves_every_size(self, eager: SegmentationModel) -> None:
        dim = 128 if isinstance(eager, Student) else 16
        program = trace(eager, embed_dim=dim).module()
        # The coarsest of the student's maps has a cell for every four of the grid; the CLIP's own
        # grid, where positions are not resized, is 4 × 4.
        small = (9, 9) if isinstance(eager, Student) else (4, 4)
        for batch, (rows, columns), classes in [(1, (12, 13), 1), (3, (15, 9), 7), (2, small, 40)]:
            side = eager.patch_size
            image = torch.randn(batch, 3, rows * side, columns * side)
            with torch.no_grad():
                ours, theirs = (
                    program(image, texts(classes, dim)),
                    eager(image, texts(classes, dim)),
                )
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)

    def test_compiled_model_equals_eager(self, eager: SegmentationModel) -> None:
        dim = 128 if isinstance(eager, Student) else 16
        # The back end that writes C++ takes a minute; what is ours is the captured graph.
        compiled = torch.compile(eager, backend="aot_eager", dynamic=True)
        with torch.no_grad():
            for rows, columns in [(9, 12), (10, 11)]:
                side = eager.patch_size
                inputs = torch.randn(2, 3, rows * side, columns * side), texts(5, dim)
                ours, theirs = compiled(*inputs), eager(*inputs)
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)

    @pytest.fixture(autouse=True)
    def _forget_compiled_code(self) -> Iterator[None]:
        yield
        torch.compiler.reset()


def exported_model(done: Export) -> ExportedModel:
    model = load_exported(done.folder, CPU).model
    assert isinstance(model, ExportedModel)
    return model


def through_a_file(model: SegmentationModel, path: Path) -> ExportedModel:
    """Return a model for embeddings of 16 dimensions as onnxruntime reads it from a file."""
    facts = facts_of(model, dim=16)
    path.write_bytes(to_onnx(trace(model, embed_dim=16), facts).SerializeToString())
    return ExportedModel(onnxruntime.InferenceSession(str(path)), facts)


def facts_of(model: SegmentationModel, *, dim: int) -> GraphFacts:
    return GraphFacts(
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        patch_size=model.patch_size,
        embed_dim=dim,
        scores=score_function(model),
    )


def never(*_: object, **__: object) -> None:
    raise ZeroDivisionError


def run_command(command: Callable[..., None], *arguments: str):
    import typer

    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(arguments))


def rewrite(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(folder / "model.onnx")
    change(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def strip(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def forget_the_mean(model: onnx.ModelProto) -> None:
    kept = [(p.key, p.value) for p in model.metadata_props if p.key != "zegment.mean"]
    del model.metadata_props[:]
    for key, value in kept:
        model.metadata_props.add(key=key, value=value)
