"""Bad input of every kind, as rows of a table: what to put there, and what the user must be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .bad_files import (
    CONFIG,
    Place,
    another_run,
    damaged_run,
    file_named_run,
    label_two,
    module_that_exits,
    module_that_lacks_a_module,
    module_that_raises,
    module_with_bad_syntax,
    no_chips,
    one_corrupt_among_thousands,
    one_larger,
    planes_only,
    user_code,
    zip_cut_short,
    zip_encrypted,
    zip_with_damaged_member,
)


@dataclass(frozen=True)
class Case:
    """One kind of bad input to `disttrain train`."""

    name: str
    code: int
    says: tuple[str, ...]
    """Regular expressions, each found in the message."""
    overrides: tuple[str, ...] = ()
    make: Callable[[Place], object] | None = None
    early: bool = False
    """Found before torch is imported and before any process is started."""
    config: str = "config.yaml"
    run_dir: str = "run"
    env: dict[str, str] = field(default_factory=dict)
    launchers: tuple[str, ...] = ("alone", "workers")


ALL = ("alone", "workers", "torchrun.sh", "torchrun", "mpirun")
SEVERAL = ("workers", "torchrun.sh", "torchrun", "mpirun")

CASES = (
    # The data
    Case("missing_data_path", 3, (r"data\.path=nowhere does not exist \(looked in /.*\)",), ("data.path=nowhere",)),
    Case("empty_data_folder", 3, (r"chips holds no PNG chips", r"<label>__<scene>"), make=no_chips),
    Case(
        "one_corrupt_png_among_thousands", 3,
        (r"1 of 2000 images in chips cannot be used:\n  \S+\.png: \S+", r"set data\.skip_unreadable=true"),
        make=one_corrupt_among_thousands, launchers=ALL,
    ),
    Case("zip_cut_short", 3, (r"chips\.zip is not a readable zip file.*again",), ("data.path=chips.zip",),
         zip_cut_short),
    Case(
        "zip_with_a_damaged_member", 3, (r"1 of 300 images in chips\.zip cannot be used:\n  chips/\S+\.png: \S+",),
        ("data.path=chips.zip",), zip_with_damaged_member, launchers=("alone",),
    ),
    Case(
        "encrypted_zip", 3, (r"1 of 300 images in chips\.zip cannot be used:\n.*password required",),
        ("data.path=chips.zip",), zip_encrypted, launchers=("alone",),
    ),
    Case(
        "wrong_image_size", 3, (r"1 of 300 images in chips .*\n  \S+\.png: is 21x20 pixels, expected 20x20",),
        make=one_larger,
    ),
    Case(
        "label_out_of_range", 3, (r"\n  2__\S+: label '2' is out of range: 0 \(no-plane\) or 1 \(plane\)",),
        make=label_two,
    ),
    Case(
        "users_label_out_of_range", 3, (r"labels from 0 to 7, out of range: with 2 classes 0 to 1",),
        ("data.name=usercode:labels_up_to_seven", "data.path=null"), user_code, launchers=("alone",),
    ),
    Case(
        "users_dataset_without_class_names", 3, (r"data\.name=usercode:no_class_names names no classes", "`classes`"),
        ("data.name=usercode:no_class_names", "data.path=null"), user_code, launchers=("alone",),
    ),
    Case(
        "users_dataset_that_raises", 3, (r"usercode:fails raised OSError: the share is not mounted",),
        ("data.name=usercode:fails", "data.path=null"), user_code,
    ),
    Case(
        "users_sample_that_raises", 3, (r"sample \d+ of the dataset raised KeyError: 'column 7'",),
        ("data.name=usercode:broken_item", "data.path=null"), user_code, launchers=("alone",),
    ),
    Case(
        "training_split_of_a_single_class", 3,
        (r"all \d+ training samples of planesnet \(chips\) are 'plane'", "at least two classes"), make=planes_only,
    ),
    Case("unknown_dataset", 2, (r"unknown dataset 'planesnt'\. Did you mean 'planesnet'\?",), ("data.name=planesnt",)),
    # The config
    Case(
        "typo_in_a_section", 2, (r"config\.yaml: unknown section .*'optm'\. Did you mean 'optim'\? Valid: batch, ",),
        make=lambda place: place.config(CONFIG + "optm: {lr: 0.1}\n"), early=True, launchers=ALL,
    ),
    Case(
        "typo_in_a_field", 2, (r"unknown field in optim: 'learning_rat'", r"Valid: .*\blr\b"),
        ("optim.learning_rat=0.1",), early=True,
    ),
    Case(
        "typo_close_to_a_field", 2, (r"field in batch: 'global_batchsize'\. Did you mean 'global_batch_size'\?",),
        ("batch.global_batchsize=8",), early=True,
    ),
    Case("text_for_a_number", 2, (r"train\.epochs='many': .*integer",), ("train.epochs=many",), early=True),
    Case("infinite_learning_rate", 2, (r"optim\.lr=inf: .*finite",), ("optim.lr=.inf",), early=True),
    Case("list_for_a_section", 2, (r"optim=\[1, 2\] must be a mapping",),
         make=lambda place: place.config("optim: [1, 2]\n"), early=True),
    Case("two_mistakes_in_one_config", 2, (r"train\.epochs=0: ", r"optim\.lr=-1: "),
         ("train.epochs=0", "optim.lr=-1"), early=True),
    Case(
        "yaml_syntax_error", 2, (r"config\.yaml is not valid YAML: .*line \d+",),
        make=lambda place: place.config("model: {name: planesnet_cnn\ndata: 1\n"), early=True,
    ),
    Case(
        "config_with_a_key_twice", 2, (r"duplicate key 'model' at line 6",),
        make=lambda place: place.config(CONFIG + "model: {name: mnist_cnn}\n"), early=True,
    ),
    Case(
        "config_file_missing", 2, (r"cannot read the config file nowhere\.yaml: No such file",), config="nowhere.yaml",
        early=True,
    ),
    Case("config_that_is_a_folder", 2, (r"cannot read the config file chips: Is a directory",), config="chips",
         early=True),
    Case("malformed_override", 2, (r"override 'epochs=3' is not of the form section\.field=value",), ("epochs=3",),
         early=True),
    Case(
        "global_batch_smaller_than_world_size", 2,
        (r"batch\.global_batch_size=1 is smaller than world_size=2: every rank needs a sample\. Use .*>= 2 or fewer",),
        ("batch.global_batch_size=1",), early=True, launchers=SEVERAL,
    ),
    Case(
        "micro_batch_larger_than_global", 2,
        (r"micro_batch_size=9 is larger than batch\.global_batch_size=8: .*Use micro_batch_size <= 8",),
        ("batch.global_batch_size=8", "batch.micro_batch_size=9"), early=True,
    ),
    Case(
        "horovod_with_a_sharded_optimizer", 2,
        (r"optim\.zero_redundancy=true with train\.backend=horovod: .*Use train\.backend=ddp",),
        ("train.backend=horovod", "optim.zero_redundancy=true"), early=True,
    ),
    Case(
        "a_setting_of_horovod_without_it", 2, (r"comm\.adasum=True is a setting of Horovod.*train\.backend=horovod",),
        ("comm.adasum=true",), early=True,
    ),
    Case(
        "more_workers_than_samples", 2,
        (r"the training split holds 1 samples for world_size=2: .*Use at most 1 workers, or more data",),
        ("data.name=usercode:one_sample", "data.path=null", "data.test_fraction=0.0"), user_code,
        launchers=("workers",),
    ),
    Case(
        "cuda_without_a_gpu", 2, (r"train\.device=cuda, but torch .* sees no GPU\. Use train\.device=cpu",),
        ("train.device=cuda",), env={"CUDA_VISIBLE_DEVICES": ""},
    ),
    Case(
        "rank_without_world_size", 2, (r"RANK=0 is set, but WORLD_SIZE is not: .*unset RANK",), env={"RANK": "0"},
        early=True, launchers=("alone",),
    ),
    Case(
        "rank_beyond_world_size", 2, (r"RANK=2, WORLD_SIZE=2: ranks go from 0 to 1",),
        env={"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "node0",
             "MASTER_PORT": "29500"},
        early=True, launchers=("alone",),
    ),
    # The model
    Case("unknown_model", 2, (r"unknown model 'planesnet_cn'\. Did you mean 'planesnet_cnn'\?",),
         ("model.name=planesnet_cn",)),
    Case(
        "unknown_torchvision_model", 2, (r"unknown torchvision classifier 'resnet81'\. Did you mean 'resnet18'\?",),
        ("model.name=torchvision:resnet81",), launchers=("alone",),
    ),
    Case(
        "user_module_that_raises", 2,
        (r"model\.name=usercode:net: importing usercode raised RuntimeError: licence expired \(.*\.py, line 3\)",),
        ("model.name=usercode:net",), module_that_raises,
    ),
    Case(
        "user_module_that_exits", 2, (r"importing usercode raised SystemExit: usage: usercode FILE",),
        ("model.name=usercode:net",), module_that_exits, launchers=("alone",),
    ),
    Case(
        "user_module_with_bad_syntax", 2, (r"importing usercode raised SyntaxError: .*\(usercode\.py, line 1\)\.$",),
        ("model.name=usercode:net",), module_with_bad_syntax, launchers=("alone",),
    ),
    Case(
        "user_module_that_lacks_a_module", 2, (r"importing usercode raised ModuleNotFoundError: .*'flux_capacitor'",),
        ("model.name=usercode:net",), module_that_lacks_a_module, launchers=("alone",),
    ),
    Case("user_module_that_does_not_exist", 2, (r"model\.name=usercode:net: there is no module 'usercode' in /",),
         ("model.name=usercode:net",)),
    Case(
        "user_function_that_does_not_exist", 2, (r"name in usercode 'five_output'\. Did you mean 'five_outputs'",),
        ("model.name=usercode:five_output",), user_code, launchers=("alone",),
    ),
    Case(
        "model_with_wrong_outputs", 2, (r"gives outputs of shape \[2, 5\] for 2 samples; the data has 2 classes",),
        ("model.name=usercode:five_outputs",), user_code,
    ),
    Case(
        "model_that_does_not_take_the_images", 2, (r"does not take inputs of shape \[3, 20, 20\]: RuntimeError",),
        ("model.name=usercode:wrong_input",), user_code, launchers=("alone",),
    ),
    Case("model_that_is_none", 2, (r"gave a str, not a torch\.nn\.Module",), ("model.name=usercode:not_a_network",),
         user_code, launchers=("alone",)),
    Case(
        "failure_on_rank_one_only", 2,
        (r"error: \[rank 1 on \S+\] model\.name=usercode:fails_on_rank_one .*ValueError: no cheese on this rank",),
        ("model.name=usercode:fails_on_rank_one",), user_code, launchers=SEVERAL,
    ),
    # Folders
    Case("run_dir_that_is_a_file", 2, (r"run directory run cannot be made: \S*run is a file\. Use another --run-dir",),
         make=file_named_run, early=True),
    Case(
        "run_dir_below_a_file", 2, (r"run directory config\.yaml/run cannot be made: /.*/config\.yaml is a file",),
        run_dir="config.yaml/run", early=True,
    ),
    Case(
        "run_dir_of_another_config", 2,
        (r"belongs to a run with another config", r"\n  optim\.lr: 0\.5 -> 0\.001", r"Use another --run-dir"),
        make=another_run, early=True,
    ),
    Case("run_dir_with_a_damaged_config", 2, (r"run directory run holds a config\.yaml that cannot be read",),
         make=damaged_run, early=True),
    Case("checkpoint_that_does_not_exist", 2, (r"--resume nowhere: there is no such checkpoint folder",),
         ("--resume", "nowhere")),
    Case(
        "cache_dir_below_a_file", 3, (r"cache folder config\.yaml/cache cannot be written", r"Set data\.cache_dir"),
        ("data.cache_dir=config.yaml/cache",),
    ),
)  # fmt: skip
