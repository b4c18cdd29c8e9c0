"""Closed-set segmenters as dense encoders: any architecture, any encoder, any size."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file

from zegment.errors import ConfigError, ModelNotFoundError, UnsupportedModelError
from zegment.models.closed_set import ARCHITECTURES, ClosedSetNetwork
from zegment.models.student import Student

DIM = 64

# Multiple and stride of each architecture with its tiny encoder.
GEOMETRY = {
    "unet": (32, 4),
    "unetplusplus": (32, 4),
    "manet": (32, 4),
    "linknet": (32, 4),
    "fpn": (32, 4),
    "pspnet": (8, 8),
    "deeplabv3": (8, 8),
    "deeplabv3plus": (16, 4),
    "pan": (128, 4),
    "upernet": (32, 4),
    "segformer": (32, 4),
    "dpt": (32, 4),
}

NEEDS_TWO = ("deeplabv3", "deeplabv3plus", "pan", "upernet")


def build(architecture: str, encoder: str = "tu-test_resnet", **changes: object):
    torch.manual_seed(0)
    options = {"weights": None, "embed_dim": DIM, **changes}
    return ClosedSetNetwork(architecture, encoder, **options)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def network(request: pytest.FixtureRequest) -> ClosedSetNetwork:
    return build(request.param, "tu-test_vit" if request.param == "dpt" else "tu-test_resnet")


def architecture_of(network: ClosedSetNetwork) -> str:
    return network.name.partition(" ")[0]


def test_every_architecture_of_the_library_is_offered():
    assert set(ARCHITECTURES) == set(smp.MODEL_ARCHITECTURES_MAPPING) == set(GEOMETRY)


class TestContract:
    @pytest.mark.parametrize("cells", [(1, 1), (3, 2)])
    def test_takes_any_multiple(self, network, cells):
        assert (network.multiple, network.stride) == GEOMETRY[architecture_of(network)]
        size = (network.multiple * cells[0], network.multiple * cells[1])
        with torch.no_grad():
            features = network.eval()(torch.randn(1, 3, *size))
        assert features.shape == (1, DIM, size[0] // network.stride, size[1] // network.stride)
        assert features.isfinite().all()

    def test_treats_images_of_a_batch_alone_in_evaluation(self, network):
        images = torch.randn(2, 3, 128, 128)
        with torch.no_grad():
            together = network.eval()(images)
            alone = torch.cat([network(image[None]) for image in images])
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)
        assert not torch.allclose(together[0], together[1], atol=1e-3)

    def test_trains_every_parameter_that_is_not_frozen(self, network):
        network.train().zero_grad()
        network(torch.randn(2, 3, 128, 128)).square().mean().backward()
        for name, parameter in network.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name

    def test_freezes_only_what_the_library_never_uses(self, network):
        frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
        unused = ("norm.weight", "norm.bias", "head.weight", "head.bias")
        vit = {f"network.encoder.model.{name}" for name in unused}
        assert frozen == (vit if architecture_of(network) == "dpt" else set())

    def test_splits_parameters_into_encoder_and_rest(self, network):
        encoder = {id(p) for p in network.encoder_parameters()}
        rest = {n for n, p in network.named_parameters() if id(p) not in encoder}
        assert encoder
        assert all(name.startswith(("network.decoder", "neck", "projection")) for name in rest)
        assert len(encoder) + len(rest) == len(list(network.parameters()))

    def test_features_span_the_embedding_space(self, network):
        with torch.no_grad():
            features = network.train()(torch.randn(2, 3, 128, 128))
        pixels = features.transpose(0, 1).flatten(1).double()
        assert torch.linalg.matrix_rank(pixels, rtol=1e-6) == DIM

    def test_knows_whether_a_batch_of_one_can_be_trained(self, network):
        architecture = architecture_of(network)
        network.check_batch((128, 256), batch=2, training=True)
        image = torch.randn(1, 3, 128, 128)
        if architecture in NEEDS_TWO:
            with pytest.raises(ConfigError, match=rf"{architecture} .* at least two"):
                network.check_batch((128, 128), batch=1, training=True)
            with pytest.raises(ValueError, match="more than 1 value"):
                network.train()(image)
        else:
            network.check_batch((128, 128), batch=1, training=True)
            network.train()(image)

    def test_as_a_student_names_a_size_that_fits(self, network):
        m, student = network.multiple, Student(network, mean=(0.0,) * 3, std=(1.0,) * 3)
        message = rf"not \[{m + 1}, {3 * m}\]; use \[{2 * m}, {3 * m}\]"
        with pytest.raises(ConfigError, match=message):
            student.check_batch((m + 1, 3 * m), batch=2, training=False)
        with pytest.raises(ValueError, match=f"{m}×{m + 1} pixels.*multiples of {m}"):
            student.features(torch.zeros(1, 3, m, m + 1))


@pytest.mark.parametrize("architecture", ["unet", "linknet", "pan"])
def test_no_narrow_decoder_bounds_the_rank(architecture):
    """The decoder's own channels could not: 16, 32 and 32 of 512 dimensions."""
    network = build(architecture, embed_dim=512).train()
    widths = []
    network.projection.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0]))
    with torch.no_grad():
        network(torch.randn(2, 3, 128, 128))
    entering = widths[0].transpose(0, 1).flatten(1).double()
    assert len(entering) == 256
    assert torch.linalg.matrix_rank(entering, rtol=1e-6) > 128


@pytest.mark.parametrize("architecture", ["deeplabv3plus", "upernet", "segformer"])
def test_the_projection_stands_where_the_classifier_stood(architecture):
    """The library's own network with D classes and no upsampling is the second implementation."""
    network = build(architecture).eval()
    theirs = smp.create_model(
        architecture, "tu-test_resnet", None, classes=DIM, upsampling=1
    ).eval()
    missing, unexpected = theirs.load_state_dict(network.network.state_dict(), strict=False)
    assert (missing, unexpected) == (["segmentation_head.0.weight", "segmentation_head.0.bias"], [])
    theirs.segmentation_head[0].weight.data = network.projection.weight.data
    theirs.segmentation_head[0].bias.data.zero_()
    image = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(image), theirs(image))


def test_narrow_embedding_spaces_need_no_wide_features():
    assert build("unet", embed_dim=24).projection.in_channels == 24
    assert build("unet", embed_dim=8).projection.in_channels == 16


def test_a_check_leaves_the_network_as_it_was():
    network = build("upernet")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.check_batch((64, 64), batch=2, training=True)
    assert network.training
    for name, value in network.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("architecture", "encoder", "multiple"),
    [
        ("upernet", "tu-swin_tiny_patch4_window7_224", 32),
        ("dpt", "tu-vit_tiny_patch16_224", 32),
        ("segformer", "mit_b0", 32),
        pytest.param(
            "segformer",
            "tu-test_maxvit",
            160,  # five cells of 32 pixels per window
            marks=pytest.mark.skipif(not timm.is_model("test_maxvit"), reason="newer than timm"),
        ),
    ],
)
def test_transformers_take_sizes_they_were_not_trained_on(architecture, encoder, multiple):
    network = build(architecture, encoder).eval()
    assert network.multiple == multiple
    size = (multiple, 96) if multiple < 96 else (multiple, multiple)
    with torch.no_grad():
        features = network(torch.randn(1, 3, *size))
    assert features.shape == (1, DIM, size[0] // 4, size[1] // 4)


def test_the_unused_stages_of_an_encoder_are_frozen():
    network = build("pspnet", "resnet18")
    frozen = {name.split(".")[2] for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"layer3", "layer4"}


@pytest.mark.parametrize(
    ("architecture", "encoder", "message"),
    [
        ("unet", "tu-test_vit", "unet does not work .*pattern.* resnet50 .* or dpt for"),
        ("dpt", "resnet18", r"dpt does not work with encoder resnet18 .*\(tu-vit_base"),
        ("dpt", "tu-eva02_tiny_patch14_224", "patches of 8, 16 or 32 pixels"),
        ("linknet", "mit_b0", "mit_b0` is not supported for Linknet"),
    ],
)
def test_a_pair_that_cannot_work_is_refused_with_a_remedy(architecture, encoder, message):
    with pytest.raises(UnsupportedModelError, match=message):
        build(architecture, encoder)


@pytest.mark.parametrize(
    ("architecture", "encoder", "weights", "message"),
    [
        ("unett", "resnet18", None, r'called "unett"; did you mean "unet"\? known are unet, '),
        ("unet", "resnet81", None, r'called "resnet81"; did you mean "resnet\d+"\?'),
        ("unet", "tu-convnext_tinny", None, 'did you mean "tu-convnext_tiny"'),
        ("unet", "tu-test_resnet.a", None, 'no weights "a" for tu-test_resnet.* has r160_in1k'),
        (
            "unet",
            "resnet18",
            "imagnet",
            r'did you mean "imagenet"\? .* has imagenet, ssl, swsl, none',
        ),
        ("unet", "tu-test_resnet", "x", 'no weights "x".* has imagenet, r160_in1k, none'),
        ("unet", "tu-test_resnet.r160_in1k", "x", "has imagenet, r160_in1k, none"),
        ("unet", "tu-resnet18.a1_in1k", "a2_in1k", r"tu-resnet18.a1_in1k has .* imagenet, a1_in1k"),
    ],
)
def test_an_unknown_name_is_answered_with_known_ones(architecture, encoder, weights, message):
    with pytest.raises(ModelNotFoundError, match=message):
        build(architecture, encoder, weights=weights)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-test_resnet"])
def test_without_network_the_user_learns_what_to_do(encoder):
    with pytest.raises(ModelNotFoundError, match=r"no network.*HF_HOME.*weights = \"none\"") as e:
        build("unet", encoder, weights="imagenet")
    assert "\n" not in str(e.value)


class TestPretrained:
    @pytest.fixture
    def serve(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
        """Return a function that puts weights where both libraries download theirs."""

        def serve(weights: dict[str, torch.Tensor]) -> list[str]:
            path = tmp_path / "model.safetensors"
            save_file({k: v.contiguous() for k, v in weights.items()}, path)
            asked: list[str] = []

            def download(repo_id: str, **_: object) -> str:
                asked.append(repo_id)
                return str(path)

            monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", download)
            monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
            return asked

        return serve

    def test_weights_of_the_library_fill_the_encoder(self, serve):
        weights = smp.encoders.get_encoder("resnet18").state_dict()
        asked = serve(weights)
        network = build("fpn", "resnet18", weights="ssl")
        assert asked
        assert all("resnet18.ssl" in repo_id for repo_id in asked)
        for name, value in network.network.encoder.state_dict().items():
            assert torch.equal(value, weights[name]), name

    @pytest.mark.parametrize(
        ("encoder", "weights"),
        [
            ("tu-test_resnet", "imagenet"),
            ("tu-test_resnet", "r160_in1k"),
            ("tu-test_resnet.r160_in1k", "imagenet"),
        ],
    )
    def test_weights_of_timm_fill_the_encoder(self, serve, encoder, weights):
        theirs = timm.create_model("test_resnet").state_dict()
        asked = serve(theirs)
        network = build("unet", encoder, weights=weights)
        assert asked == ["timm/test_resnet.r160_in1k"]
        for name, value in network.network.encoder.model.state_dict().items():
            assert torch.equal(value, theirs[name]), name

    def test_a_vision_transformer_keeps_its_weights_and_takes_other_sizes(self, serve):
        theirs = timm.create_model("test_vit").state_dict()
        serve(theirs)
        network = build("dpt", "tu-test_vit", weights="imagenet").eval()
        for name, value in network.network.encoder.model.state_dict().items():
            assert torch.equal(value, theirs[name]), name
        assert network(torch.randn(1, 3, 64, 96)).shape == (1, DIM, 16, 24)

    def test_a_damaged_file_is_named(self, serve):
        serve({"conv1.weight": torch.zeros(1)})
        with pytest.raises(
            ModelNotFoundError, match=r'cannot load weights "imagenet" of .*resnet18'
        ):
            build("unet", "resnet18", weights="imagenet")


def test_libraries_neither_warn_nor_log(caplog, capsys):
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build("unet", "timm-skresnet18")  # deprecated by the library
        network = build("dpt", "tu-test_resnet")  # has no class token to read out
        network(torch.randn(2, 3, 64, 64))
    assert not caplog.records
    assert capsys.readouterr() == ("", "")


def test_size_checks_reach_beyond_the_multiple():
    """A network may still refuse a size; the libraries' reason and a remedy are passed on."""
    network = build("pan")
    network.multiple = 16
    with pytest.raises(ConfigError, match=r"pan .* cannot process 2 images of 32 × 32.*; use"):
        network.check_batch((32, 32), batch=2, training=False)
