"""The table: one row per image and attack, whatever the batch size, and joined only with its like."""

import numpy as np
import pytest
import torch
from torch import nn

from steelman.attacks import FGSM, PGD, CarliniWagner, DeepFool
from steelman.data import Digits
from steelman.evaluation import evaluate, reference_attacks, reference_epsilon
from steelman.measures import accuracy
from steelman.networks import Preprocessed
from steelman.norms import L2, Linf
from steelman.table import Evaluation


class Shift(nn.Module):
    """A preprocessing that leaves [0, 1] far behind."""

    def forward(self, x):
        return 3 * x - 1


def small_network(seed: int = 0) -> nn.Sequential:
    """A network for the digits with dropout and batch normalisation, a little trained, in evaluation mode."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10)
    )
    (train,) = Digits().load("train").batches([torch.arange(600)])
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(25):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(train.x), train.y).backward()
        optimiser.step()
    return network.eval()


@pytest.fixture(scope="module")
def network():
    return small_network()


@pytest.fixture(scope="module")
def digits():
    return Digits().load("test").subset(torch.arange(60))


@pytest.fixture(scope="module")
def batch(digits):
    (whole,) = digits.batches([torch.arange(len(digits))])
    return whole


ATTACKS = [FGSM(eps=0.1), PGD(eps=0.1, steps=3), DeepFool(), DeepFool(steps=5, reference="prediction")]


@pytest.fixture(scope="module")
def table(network, digits):
    return evaluate(network, digits, ATTACKS)


def test_one_row_per_image_and_attack_and_per_unattacked_image(table):
    assert table.attacks == tuple(str(attack) for attack in ATTACKS)
    assert len(table) == 60 * 5
    assert table.images == 60
    for name in ("clean", *table.attacks):
        assert len(set(table.only(name)["image"])) == 60


def test_rows_say_what_the_model_and_the_attack_say(table, network, batch):
    with torch.no_grad():
        logits = network(batch.x)
    clean = table.only("clean")
    np.testing.assert_array_equal(clean["label"], batch.y.numpy())
    np.testing.assert_array_equal(clean["prediction"], logits.argmax(1).numpy())
    np.testing.assert_allclose(clean["loss"], nn.functional.cross_entropy(logits, batch.y, reduction="none"), rtol=1e-5)
    np.testing.assert_allclose(clean["x_l2"], np.linalg.norm(batch.x.flatten(1).double().numpy(), axis=1))
    np.testing.assert_allclose(clean["x_linf"], batch.x.flatten(1).abs().amax(1))
    assert not any(clean[size].any() for size in ("l0", "l1", "l2", "linf"))

    result = FGSM(eps=0.1).run(network, batch.x, batch.y)
    rows = table.only("FGSM(eps=0.1)")
    for column in ("prediction", "success", "l0", "l1", "l2", "linf", "loss", "forwards", "gradients"):
        np.testing.assert_allclose(rows[column], getattr(result, column).numpy(), rtol=1e-5, err_msg=column)
    np.testing.assert_array_equal(rows["clean_prediction"], clean["prediction"])
    assert rows["seconds"].sum() > 0


def test_a_record_describes_its_attack(table):
    fgsm, minimal = table.record("FGSM(eps=0.1)"), table.record("DeepFool(steps=5, reference=prediction)")
    assert (fgsm.norm, fgsm.eps, fgsm.reference, fgsm.kind) == (
        "Linf",
        0.1,
        "label",
        "steelman.attacks:FGSM",
    )
    assert (minimal.norm, minimal.eps, minimal.reference) == ("L2", None, "prediction")
    assert "steps=5, overshoot=0.02" in minimal.call
    assert (minimal.setting("steps"), minimal.setting("overshoot"), minimal.core) == (5, 0.02, "DeepFool")
    for name in ("clean", *table.attacks):
        assert set(table.only(name)["record"]) == {table.record(name).id}
    assert len({record.id for record in table.records}) == 5


def test_the_batch_size_does_not_change_the_table(table, network, digits):
    other = evaluate(network, digits, ATTACKS, batch_size=7)
    for column in ("image", "attack", "label", "prediction", "success", "forwards", "gradients"):
        np.testing.assert_array_equal(other[column], table[column])
    for column in ("l1", "l2", "linf", "x_l2"):
        np.testing.assert_allclose(other[column], table[column], rtol=1e-3, atol=1e-5)


def test_an_image_has_the_same_noise_in_a_subset(table, network, digits):
    some = torch.tensor([50, 3, 17])
    part = evaluate(network, digits.subset(some), [PGD(eps=0.1, steps=3)])
    attack = "PGD(eps=0.1, steps=3)"
    whole = dict(zip(table.only(attack)["image"], table.only(attack)["l2"], strict=True))
    expected = [whole[image] for image in part.only(attack)["image"]]
    np.testing.assert_allclose(part.only(attack)["l2"], expected, rtol=1e-5)


def test_noise_is_of_the_seed_and_of_the_attacks_name(network, digits):
    noise = PGD(eps=0.1, steps=0)
    table = evaluate(network, digits, {"one": noise, "two": noise})
    again = evaluate(network, digits, {"one": noise})
    other = evaluate(network, digits, {"one": noise}, seed=1)
    np.testing.assert_array_equal(table.only("one")["l2"], again.only("one")["l2"])
    assert (table.only("one")["l2"] != table.only("two")["l2"]).all()
    assert (table.only("one")["l2"] != other.only("one")["l2"]).all()


def test_the_model_is_in_evaluation_mode_and_found_as_it_was(table, digits):
    model = small_network().train()
    model[2].eval()
    model[1].weight.requires_grad_(False)
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    found = evaluate(model, digits, ATTACKS[:1])
    np.testing.assert_array_equal(found["prediction"], table.only(["clean", "FGSM(eps=0.1)"])["prediction"])
    with pytest.raises(ValueError, match="stay here"):
        evaluate(model, digits, {"broken": Broken()})
    assert [module.training for module in model.modules()] == [True, True, True, False, True, True, True]
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted


class Broken(FGSM):
    def search(self, oracle, x, goal, draws):
        raise ValueError("stay here")


def test_from_prediction_leaves_the_prediction_right_or_wrong(table):
    rows, usual = table.only("DeepFool(steps=5, reference=prediction)"), table.only("DeepFool()")
    wrong = rows["clean_prediction"] != rows["label"]
    assert wrong.any()
    assert (rows["l2"][wrong] > 0).all()
    assert (usual["l2"][wrong] == 0).all()
    np.testing.assert_array_equal(rows["success"], rows["prediction"] != rows["clean_prediction"])


def test_the_preprocessed_space_is_that_of_the_inner_network_without_a_box(network, batch):
    model = Preprocessed(Shift(), network)
    table = evaluate(model, (batch.x, batch.y), [FGSM(eps=0.5)], space="preprocessed")
    rows = table.only("FGSM(eps=0.5)")
    seen = Shift()(batch.x)
    expected = FGSM(eps=0.5, box=None)(network, seen, batch.y)
    np.testing.assert_array_equal(rows["prediction"], network(expected).argmax(1))
    np.testing.assert_allclose(rows["l2"], L2.size(expected - seen), rtol=1e-5)
    np.testing.assert_allclose(rows["x_l2"], L2.size(seen), rtol=1e-5)
    assert table.space == "preprocessed"
    assert table.record("FGSM(eps=0.5)").setting("box") is None
    assert "box=None" in table.record("FGSM(eps=0.5)").call


def test_pixels_of_a_preprocessed_model_are_attacked_through_the_preprocessing(network, batch):
    model = Preprocessed(Shift(), network)
    rows = evaluate(model, (batch.x, batch.y), [FGSM(eps=0.1)]).only("FGSM(eps=0.1)")
    assert rows["linf"].max() <= 0.1 * (1 + 1e-6)
    np.testing.assert_allclose(rows["x_linf"], batch.x.flatten(1).amax(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": [FGSM(eps=0.1), FGSM(eps=0.1)]}, "two attacks are called FGSM"),
        ({"attacks": {"clean": FGSM()}}, "the name of the unattacked images"),
        ({"attacks": [FGSM(eps=torch.full((60,), 0.1))]}, "a radius per image"),
        ({"dataset": (torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))}, "no images"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"space": "preprocessed"}, "has no preprocess and network"),
    ],
)
def test_invalid_input_is_refused(network, digits, changes, message):
    arguments = {"dataset": digits, "attacks": [FGSM(eps=0.1)]} | changes
    with pytest.raises(ValueError, match=message):
        evaluate(network, arguments.pop("dataset"), arguments.pop("attacks"), **arguments)


def test_carlini_wagner_cannot_go_without_a_box(network, digits):
    with pytest.raises(ValueError, match=r"CarliniWagner\(steps=5\) cannot be run in the preprocessed space"):
        evaluate(Preprocessed(Shift(), network), digits, [CarliniWagner(steps=5)], space="preprocessed")


def test_images_that_occur_twice_are_refused(network, digits):
    with pytest.raises(ValueError, match="2 images but only 1 indices"):
        evaluate(network, digits.subset(torch.tensor([4, 4])), [])


def test_a_pair_of_tensors_and_a_plain_function_will_do(table, network, batch):
    found = evaluate(lambda x: network(x), (batch.x, batch.y), ATTACKS[:1])
    np.testing.assert_array_equal(found["prediction"], table.only(["clean", "FGSM(eps=0.1)"])["prediction"])


def test_no_bar_where_there_is_no_terminal(network, digits, capfd):
    evaluate(network, digits, ATTACKS[:1], progress=True)
    assert capfd.readouterr() == ("", "")


def test_what_was_saved_is_loaded(table, tmp_path):
    table.save(tmp_path / "deep" / "table.parquet")
    loaded = Evaluation.load(tmp_path / "deep" / "table.parquet")
    assert loaded.table.schema.equals(table.table.schema)
    for column in table.table.column_names:
        np.testing.assert_array_equal(loaded[column], table[column])
    assert loaded.records == table.records
    assert (loaded.space, loaded.probes, loaded.about) == ("pixels", (), table.about)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["table.parquet"]


def test_a_file_that_is_no_table_is_refused_by_name(table, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.parquet"):
        Evaluation.load(tmp_path / "nowhere.parquet")
    table.save(tmp_path / "cut.parquet")
    whole = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.parquet is not a whole evaluation table"):
        Evaluation.load(tmp_path / "cut.parquet")
    Evaluation(table.table.drop_columns(["success"])).save(tmp_path / "less.parquet")
    with pytest.raises(ValueError, match=r"less\.parquet is not a whole .*the column success is missing"):
        Evaluation.load(tmp_path / "less.parquet")


def test_tables_of_other_attacks_or_images_join(table, network, digits):
    joined = table + evaluate(network, digits, [FGSM(eps=0.2)])
    assert joined.attacks == (*table.attacks, "FGSM(eps=0.2)")
    assert len(joined) == 60 * 6
    first, rest = (evaluate(network, digits.subset(part), ATTACKS[:1]) for part in torch.arange(60).split([20, 40]))
    together = (rest + first).only("FGSM(eps=0.1)")
    assert accuracy(together, "FGSM(eps=0.1)") == accuracy(table, "FGSM(eps=0.1)")


def test_tables_of_one_cell_or_of_another_model_do_not_join(table, digits):
    with pytest.raises(ValueError, match="both tables have image"):
        table + table
    with pytest.raises(ValueError, match="of another model, with other weights and buffers"):
        table + evaluate(small_network(seed=1), digits, [FGSM(eps=0.2)])
    named = table.replaced(model={})  # a table without the model's digests is compared by the answers
    with pytest.raises(ValueError, match="not the same data and model: image"):
        named + evaluate(small_network(seed=1), digits, [FGSM(eps=0.2)])


def test_asking_for_what_is_not_there_lists_what_is(table):
    with pytest.raises(ValueError, match=r"no attack 'PGD\(\)' in the table; it has clean, FGSM"):
        table.only("PGD()")
    with pytest.raises(ValueError, match=r"no attack 'FGSM\(\)' in the table; it has clean, FGSM"):
        table.record("FGSM()")
    with pytest.raises(KeyError, match="no column 'l3'"):
        table["l3"]


def test_repr_shows_the_accuracies(table):
    share = 100 * accuracy(table, "FGSM(eps=0.1)").value
    assert repr(table).startswith("Evaluation(60 images, pixels, accuracy: clean ")
    assert f"FGSM(eps=0.1) {share:.1f} %" in repr(table)
    assert f"<td>{accuracy(table, 'FGSM(eps=0.1)')}</td>" in table._repr_html_()


def linear_model(weight):
    """Two classes whose logits differ by <weight, x - 1/2>, so that FGSM's effect is known in closed form."""
    return lambda x: torch.stack([torch.zeros(len(x)), (x.flatten(1) - 0.5) @ weight], 1)


@pytest.mark.parametrize("count", [40, 41])
def test_eps_ref_is_the_middle_of_the_closed_form_distances(count):
    torch.manual_seed(0)
    weight = torch.randn(12)
    x = 0.5 + 0.2 * (torch.rand(count, 12) - 0.5)
    y = (linear_model(weight)(x)[:, 1] > 0).long()
    y[:5] = 1 - y[:5]  # natural errors: at distance 0
    distance = ((x - 0.5) @ weight).abs() / weight.abs().sum()
    distance[:5] = 0
    half = distance.sort().values[(count + 1) // 2 - 1]
    found = reference_epsilon(linear_model(weight), (x, y))
    assert found == pytest.approx(float(half), rel=2e-4)
    table = evaluate(linear_model(weight), (x, y), reference_attacks(found))
    assert accuracy(table, "FGSM(1.0 eps_ref)").value == (count // 2) / count
    assert accuracy(table, "FGSM(0.5 eps_ref)").value == float((distance > 0.5 * half).double().mean())


def test_eps_ref_of_the_preprocessed_space_is_unclipped():
    torch.manual_seed(0)
    weight = torch.randn(12)
    x = torch.rand(30, 12).round()  # every pixel at the box
    inner = linear_model(weight)
    y = (inner(3 * x - 1)[:, 1] > 0).long()
    distance = ((3 * x - 1.5) @ weight).abs() / weight.abs().sum()

    class Inner(nn.Module):
        def forward(self, x):
            return inner(x)

    found = reference_epsilon(Preprocessed(Shift(), Inner()), (x, y), space="preprocessed")
    assert found == pytest.approx(float(distance.sort().values[14]), rel=2e-4)


def test_eps_ref_needs_a_model_that_is_right_and_can_be_broken():
    x, y = torch.full((4, 3), 0.6), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match="without any attack"):
        reference_epsilon(linear_model(torch.ones(3)), (x, y))
    stubborn = lambda x: torch.stack([10 + 1e-3 * x.sum(1), 0 * x.sum(1)], 1)  # noqa: E731
    with pytest.raises(ValueError, match="there is no eps_ref"):
        reference_epsilon(stubborn, (x, torch.zeros(4, dtype=torch.int64)))


def test_distances_are_those_of_the_norms(table):
    rows = table.only("FGSM(eps=0.1)")
    assert (rows["linf"] <= 0.1 * (1 + 1e-6)).all()
    assert (rows["l2"] <= rows["linf"] * np.sqrt(rows["l0"]) * (1 + 1e-6)).all()
    assert (rows["l1"] <= rows["linf"] * rows["l0"] * (1 + 1e-6)).all()
    assert repr(Linf).lower() in table.table.column_names
