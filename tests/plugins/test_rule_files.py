"""Rules in a file of the user's: how they are found, what is refused, what records keep of them."""

import hashlib
import json
import subprocess
import sys

import pytest
from fabricate import SETS, call, complaint, image_folder

from locbench.cli.downstream import DownstreamOptions, plan_downstream
from locbench.errors import UserError
from locbench.paths import runs_dir
from locbench.plugins.registry import RULES
from locbench.plugins.rule_errors import blamed
from locbench.plugins.rule_files import read_file, rule_name, rule_names
from locbench.runs.store import Store

WHOLE = '''"""Cross-entropy on the last block."""
from torch import nn
from torch.nn import functional as F
from locbench.rules import Batch, Block, Network, Unit

LEARNS = "label"

class Head(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def logits(self, features):
        return self.head(features)

    def forward(self, features, batch):
        return F.cross_entropy(self.head(features), batch.targets), {}

def mine(network: Network, *, weight: float = 0.5, shift: int = -1, kind: str = "a", deep=False):
    """One unit."""
    return [Unit(0, len(network.blocks), Head(network.head))]
'''


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What a test makes known is forgotten after it."""
    monkeypatch.setattr(RULES, "entries", dict(RULES.entries))


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="mine.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write_file


@pytest.fixture
def tiny(tmp_path):
    """The arguments that make a pretraining with `WHOLE` tiny."""
    sets = [*SETS, "--set", "augmentation.name=crop", "--set", "optimizer.name=sgd"]
    folder = image_folder(tmp_path / "images")
    return ["loco/imagenet", "--network", "resnet50", *sets, "--data-root", folder]


def fault(path):
    with pytest.raises(UserError) as caught:
        rule_name(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_tells_its_rule_without_being_run(write):
    path = write(f"raise SystemExit('run')\n{WHOLE}")
    assert rule_name(str(path)) == "mine"
    entry = RULES.entry("mine")
    assert entry.settings == {"weight": 0.5, "shift": -1, "kind": "a", "deep": False}
    assert (entry.learns, entry.summary) == ("label", "One unit.")
    assert entry.version == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    with pytest.raises(UserError, match=r"mine\.py, line 1: cannot be run: SystemExit: run"):
        RULES.get("mine")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mine.py", "def other(network): 1\ndef mine(network): 2"),
        ("mine.py", "def helper(x): 1\ndef _other(network): 1\ndef anything(network): 2"),
        ("two-words.py", "def other(network): 1\ndef two_words(network, /): 2"),
    ],
)
def test_the_rule_is_named_like_the_file_or_the_only_one(write, name, text):
    entry = read_file(write(text, name))
    assert entry.name == name.removesuffix(".py") and entry.learns == "views"
    assert entry.load()(None) is None and entry.target in ("mine", "anything", "two_words")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "there is no rule in it; expected a function mine(network, *, setting=default)"),
        ("mine = lambda network: []", "there is no rule in it"),
        ("def mine(net): 1\ndef other(network): 1", "first parameter of mine is not 'network'"),
        ("def one(network): 1\ndef two(network): 1", "one and two may each be its rule"),
        ("def mine(network, weight=1): 1", "'weight' is no setting"),
        ("def mine(network, *, weight): 1", "setting 'weight' needs"),
        ("def mine(network, *, weight=1 / 3): 1", "setting 'weight' needs"),
        ("LEARNS = 'labels'\ndef mine(network): 1", "line 1: LEARNS must be"),
        ("def mine(network)\n", "line 1: not Python"),
        ("def mine(network): 1\n\0", "not Python"),
    ],
)
def test_a_file_without_a_rule_says_what_was_expected(write, text, wanted):
    assert wanted in fault(write(text))


def test_files_that_cannot_be_a_rule(write, tmp_path):
    assert "No such file" in fault(tmp_path / "nowhere.py")
    assert "Is a directory" in fault(write("", "folder.py/inside.py").parent)
    assert "of letters, digits" in fault(write("def f(network): 1", "my rule.py"))


@pytest.mark.parametrize("name", ["loco", "untrained"])
def test_no_file_hides_a_rule_of_locbench(write, name):
    message = fault(write("def f(network): 1", f"{name}.py"))
    assert f"'{name}' would hide that of locbench: rename" in message
    assert name != "loco" or RULES.entry("loco").source == ""


def test_two_files_of_one_name_are_told_apart_by_content_alone(write):
    first, same, other = (
        write(f"def mine(network): {k}", f"{folder}/mine.py")
        for folder, k in (("a", 1), ("b", 1), ("c", 2))
    )
    assert rule_names([str(first), str(same), "loco"]) == ["mine", "loco"]
    with pytest.raises(UserError, match="two files hold a rule 'mine'"):
        rule_names([str(first), str(other)])


def test_a_name_without_its_ending_is_seen(write, monkeypatch, tmp_path):
    write("def mine(network): 1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"did you mean the file mine\.py"):
        rule_name("mine")
    with pytest.raises(UserError, match="did you mean 'loco'"):
        rule_name("locco")


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("return None", "must return a list of Units, not NoneType"),
        ("return []", "not an empty list"),
        ("return [nn.ReLU()]", "not list [ReLU()]"),
        ("return [Unit(0, 1, len)]", "its objective must be a module"),
        ("return [Unit(0, 99, nn.ReLU())]", r"unit [0, 99) does not fit a network of 5 blocks"),
        ("network.depths", "AttributeError: 'Network' object has no attribute 'depths'"),
    ],
)
def test_what_is_not_a_list_of_units_is_one_line(capsys, write, body, wanted):
    path = write(f"from torch import nn\nfrom locbench.rules import Unit\ndef f(network): {body}")
    line = complaint(capsys, "audit", path, "resnet50", "--width", "0.125", "--blocks", "1")
    assert wanted in line and "rule 'mine'" in line


OBJECTIVE = """
import torch
from torch import nn
from locbench.rules import Unit

class Objective(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, features, batch):
        loss = self.weight * features.mean()
        return {}

def mine(network):
    return [Unit(0, len(network.blocks), Objective())]
"""


@pytest.mark.parametrize(
    ("returned", "wanted"),
    [
        ("loss", "mine.py: TypeError: iteration over a 0-d tensor; an objective returns a scalar"),
        ("features, {}", "the loss has to be a scalar, and has the shape (16, 256, 2, 2); an obj"),
        ("loss @ loss, {}", "mine.py, line 13: RuntimeError: both arguments to matmul"),
        ("loss, {'x': 1.0}", "mine.py: AttributeError: 'float'"),
        ("loss, {'loss': loss}", "an objective logs 'loss'"),
    ],
)
def test_an_objective_that_breaks_the_contract_is_one_line(
    capsys, write, tmp_path, returned, wanted
):
    path = write(OBJECTIVE.replace("return {}", f"return {returned}"))
    folder = image_folder(tmp_path / "images")
    arguments = ["loco/imagenet", "--network", "resnet50", *SETS, "--data-root", folder]
    code, out, err = call(capsys, "pretrain", *arguments, "--rule", path)
    assert code in (2, 3) and out == "" and "Traceback" not in err
    assert wanted in err.splitlines()[-1]
    (record,) = Store(runs_dir()).all()
    assert record.status == "failed" and wanted in record.error


def test_a_table_is_not_lost_by_a_rule_that_fails(capsys, write, tmp_path):
    folder = image_folder(tmp_path / "images")
    chosen = ["--rows", "simclr resnet,mine resnet", "--columns", "linear_top1"]
    table = ["reproduce", "table1", *chosen, *SETS, "--data-root", folder, "--format", "json"]
    path = write("import nowhere_at_all\ndef mine(network): 1")
    code, out, err = call(capsys, *table, "--rule", path)
    assert (code, out) == (2, "") and "No module named 'nowhere_at_all'" in err.splitlines()[-1]
    assert Store(runs_dir()).ids() == [], "it is seen before anything is trained"
    path.write_text(OBJECTIVE.replace("return {}", "return loss / undefined, {}"))
    code, out, err = call(capsys, *table, "--rule", path)
    assert code == 3 and "mine.py, line 13: NameError" in err.splitlines()[-1]
    cells = {cell["method"]: cell for cell in json.loads(out)["cells"]}
    assert cells["SimCLR"]["measured"] >= 0 and cells["mine"]["verdict"] == "not run"


def test_errors_that_a_rule_has_no_part_in_stay_what_they_are(write):
    rule_name(str(write(WHOLE)))
    with pytest.raises(ZeroDivisionError), blamed("mine"):
        1 / 0  # noqa: B018


def test_a_changed_file_makes_other_runs_and_each_can_be_probed(capsys, write, tiny):
    path, store = write(WHOLE), Store(runs_dir())
    texts = (WHOLE, f"{WHOLE}\n# changed\n")
    for text in (WHOLE, *texts):
        path.write_text(text)
        code, _, err = call(capsys, "pretrain", *tiny, "--rule", path, "--set", "rule.weight=1")
        assert code == 0, err
    records = list(store.all())
    digests = sorted(hashlib.sha256(text.encode()).hexdigest() for text in texts)
    assert sorted(r.rule["version"] for r in records) == [f"sha256:{d}" for d in digests]
    path.unlink()
    for record in records:
        assert record.rule["file"] == "mine.py" and record.rule["settings"] == {"weight": 1}
        RULES.entries.pop("mine")
        code, out, err = call(capsys, "probe", record.id, "--json", *tiny[-2:])
        assert code == 0, err
        probed = json.loads(out)
        assert probed["parent"] == record.id and probed["rule"]["version"] == record.rule["version"]
        RULES.entries.pop("mine")
        options = DownstreamOptions("shapes", source=record.id)
        (detector,) = plan_downstream(options, store).specs
        assert detector.parent.id == record.id


def test_a_copy_that_was_changed_is_refused(capsys, write, tiny):
    code, _, err = call(capsys, "pretrain", *tiny, "--rule", write(WHOLE))
    assert code == 0, err
    store = Store(runs_dir())
    (id,) = store.ids()
    copy = store.folder(id) / "mine.py"
    assert copy.read_text() == WHOLE
    copy.write_text(WHOLE.replace("label", "views"))
    assert f"{copy} was changed" in complaint(capsys, "probe", id)
    copy.unlink()
    assert "No such file" in complaint(capsys, "probe", id)


def test_a_rule_with_labels_that_leaves_the_classifier_is_refused(capsys, write, tiny):
    text = WHOLE.replace("Head(network.head)", "Head(type(network.head)(nn.Flatten()))")
    code, out, err = call(capsys, "pretrain", *tiny, "--rule", write(text))
    assert (code, out) == (3, "") and "leaves the network's classifier" in err.splitlines()[-1]


def test_a_setting_may_be_negative_where_its_default_is(write):
    rule_name(str(write(WHOLE)))
    from locbench.rules import check_settings

    settings = RULES.entry("mine").settings
    check_settings(settings, "mine", {"shift": -3})
    with pytest.raises(UserError, match="no negative number"):
        check_settings(settings, "mine", {"weight": -1.0})


def test_the_public_names_are_imported_on_first_use():
    code = "import sys, locbench.rules; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]
    from locbench.networks import base
    from locbench.rules import Batch, Block, Network, Unit
    from locbench.training import engine

    assert (Batch, Block, Network, Unit) == (engine.Batch, base.Block, base.Network, engine.Unit)
    with pytest.raises(ImportError):
        from locbench.rules import Unitt  # noqa: F401


@pytest.mark.parametrize(
    ("words", "is_named"),
    [
        ("loco/table7 --columns conv_saving", True),  # a column of the decoders of its rules
        ("loco/table7 --columns memory_saving", False),
        ("table1", False),
    ],
)
def test_a_rule_of_which_nothing_is_run_is_named(capsys, write, words, is_named):
    path = write(WHOLE.replace("label", "views"))
    code, _, err = call(capsys, "reproduce", *words.split(), "--rule", path, "--dry-run")
    assert code == 0, err
    assert ("nothing is run of rule mine with these rows" in err.replace("\n", " ")) == is_named
