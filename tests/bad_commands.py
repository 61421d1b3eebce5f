"""Command lines that must be refused, each with words of the one line that they end in."""

from itertools import product

import torch

from bad_plans import LONG, METHODS, PLANS

WITHOUT_MPS = [("--device mps", "--device mps cannot be used here: ")]
WITHOUT_CUDA = [("--device cuda", "--device cuda cannot be used here")]
COMPARING = ("bench --model digits-vit", "retrieve", "answer")
PLANNED = (*COMPARING, "export digits-vit", "show photo.png --model digits-vit")
BY_METHOD = (
    *(f"{command} --methods" for command in COMPARING),
    "search --model digits-vit --flops 0.7 --methods",
    "export digits-vit --method",
    "show photo.png --model digits-vit --method",
)
BATCHES = (*COMPARING, "search --model digits-vit --flops 0.7")

NUMBERS = [
    *product(
        BATCHES,
        [
            ("--batch-size 0", "--batch-size is 0; expected 1 or more"),
            ("--batch-size -1", "--batch-size is -1; expected 1 or more"),
            (f"--batch-size {2**31}", "expected at most 2147483647"),
            (f"--batch-size {2**70}", "expected at most 2147483647"),
            ("--threads 0", "--threads is 0; expected 1 or more"),
            ("--threads -3", "--threads is -3; expected 1 or more"),
            ("--threads 100000", "--threads is 100000; this machine has"),
            (f"--threads {2**70}", "expected at most 2147483647"),
            ("--device abacus", "--device abacus cannot be used here"),
            ("--device ''", "--device  cannot be used here"),
            ("--device meta", "--device meta cannot be used here"),
            *([] if torch.backends.mps.is_available() else WITHOUT_MPS),
            ("--device cuda:99", "--device cuda:99 cannot be used here"),
            ("--device cuda:-2", "--device cuda:-2 cannot be used here"),
            ("--device cpu:x", "--device cpu:x cannot be used here"),
            *([] if torch.cuda.is_available() else WITHOUT_CUDA),
        ],
    ),
    *product(
        ("retrieve", "answer"),
        [
            ("--workers -1", "--workers is -1; expected 0 (none) to 256"),
            ("--workers 100000", "--workers is 100000; expected 0 (none) to 256"),
            ("--frames 0", "--frames is 0"),
            ("--candidates 0", "--candidates is 0"),
            (f"--candidates {2**70}", "expected at most"),
        ],
    ),
    *product(
        ["bench --model digits-vit"],
        [("--samples 0", "--samples is 0"), (f"--samples {2**70}", "--samples is")],
    ),
    *product(
        ["search --model digits-vit"],
        [
            ("", "one target, flops (a share such as 0.65), speedup"),
            ("--flops 0.7 --speedup 1.5", "got flops, speedup"),
            ("--flops 0", "flops is 0.0; expected above 0, at most 1"),
            ("--flops -0.5", "flops is -0.5"),
            ("--flops 65", "flops is 65.0"),
            ("--flops nan", "flops is nan"),
            ("--flops inf", "flops is inf"),
            ("--flops 0.0001 --samples 4 --methods random", "no schedule brings the cost down"),
            ("--speedup 0.5", "speedup is 0.5"),
            ("--speedup 1", "speedup is 1.0; expected above 1, such as 1.5"),
            ("--speedup inf", "speedup is inf; expected above 1"),
            ("--speedup nan", "speedup is nan"),
            ("--speedup -2", "speedup is -2.0"),
            ("--fidelity 0", "fidelity is 0.0"),
            ("--fidelity 1.01", "fidelity is 1.01"),
            ("--fidelity nan", "fidelity is nan"),
            ("--flops 0.7 --samples 0", "--samples is 0"),
            ("--flops 0.7 --samples 1", "2 images or more, got 1"),
            (f"--flops 0.7 --samples {2**70}", "--samples is"),
            ("--flops 0.7 --seed -1", "--seed is -1; expected 0 to"),
            (f"--flops 0.7 --seed {2**63}", f"--seed is {2**63}; expected 0 to"),
            (f"--flops 0.7 --seed {2**70}", f"--seed is {2**70}; expected 0 to"),
            ("--flops 0.7 --methods tome tome", "--methods tome is given already; give it once"),
            ("--flops 0.7 --methods border", "border needs the grid of a ResNet's stage"),
            ("--flops 0.7 --methods border random", "border needs the grid of a ResNet's stage"),
            ("--flops 0.7 --methods rows-and-columns", "takes rows and columns out"),
            ("--flops 0.7 --methods 'shift(mixer)'", "needs Mamba blocks"),
            (
                "--flops 0.7 --budget adaptive --methods tome",
                "a level is one of scores, and tome asks none",
            ),
        ],
    ),
]
PLACES = [
    ("bench --model scenes-vlm --samples 0", "--samples is 0; expected 1 or more"),
    ("bench --model scenes-vlm --samples 301", "there are 300 questions of each kind"),
    ("bench --model scenes-vlm --plan deit", "--plan is deit; a vision-language model takes JSON"),
    ("bench --model scenes-vlm --json b", "--json is b; what is written is named *.json"),
    ("bench --model digits-vit --json folder.json", "folder.json: it is a directory"),
    ("bench --model digits-vit --json a_folder", "is written is named *.json"),
    ("bench --model digits-vit --json a_file/b.json", "a_file/b.json: Not a directory"),
    ("bench --model digits-vit --json a_file/b/c.json", "a_file/b/c.json: Not a directory"),
    (f"bench --model digits-vit --json {LONG}.json", ".json: File name too long"),
    ("bench --model digits-vit --json /dev/full", "--json is /dev/full; what is written is named"),
    ("bench --model digits-vit --json full.json", "full.json: it is not a regular file"),
    ("bench --model digits-vit --json /proc/b.json", "cannot write /proc/b.json"),
    ("bench --model digits-vit --json b.csv", "--json is b.csv; what is written is named *.json"),
    ("bench --model digits-vit --json b", "--json is b; what is written is named *.json"),
    ("bench --model digits-vit --json o/bench.json --out o", "--out and --json both write"),
    ("bench --model digits-vit --json ./x/../o/bench.json --out o", "both write"),
    ("bench --model digits-vit --json good.json --plan good.json", "--json would overwrite good"),
    ("bench --model digits-vit --out a_file", "a_file/bench.json: Not a directory"),
    ("bench --model digits-vit --out a_file/b", "Not a directory"),
    (f"bench --model digits-vit --out {LONG}", "File name too long"),
    ("bench --model digits-vit --out taken", "taken/report.html: it is a directory"),
    ("bench --model digits-vit --images photos --out photos/o", "one of the images in photos"),
    ("bench --model digits-vit --images . --out o", "one of the images in . from now on"),
    (f"bench --model timm:{LONG}", "File name too long"),
    ("retrieve --json folder.json", "folder.json: it is a directory"),
    ("retrieve --json a_file/b.json", "a_file/b.json: Not a directory"),
    ("retrieve --json r.html", "--json is r.html; what is written is named *.json"),
    ("retrieve --out o --json o/retrieval.json", "--out and --json both write"),
    ("retrieve --out a_file", "a_file/retrieval.json: Not a directory"),
    ("answer --json folder.json", "folder.json: it is a directory"),
    ("answer --out o --json o/answers.json", "--out and --json both write"),
    ("answer --out a_file", "a_file/answers.json: Not a directory"),
    (
        "retrieve --model umt-b16 --data msrvtt --root umt --json umt/msrvtt_ret_test1k.json",
        "--json would overwrite umt/msrvtt_ret_test1k.json, which is read",
    ),
    ("search --model digits-vit --flops 0.7 --out plan.png", "is written is named *.json"),
    ("search --model digits-vit --flops 0.7 --out plan", "is written is named *.json"),
    ("search --model digits-vit --flops 0.7 --out folder.json", "it is a directory"),
    (
        "search --model digits-vit --flops 0.7 --out .",
        "--out is .; what is written is named *.json",
    ),
    (
        "search --model digits-vit --flops 0.7 --out ''",
        "--out is .; what is written is named *.json",
    ),
    ("search --model digits-vit --flops 0.7 --out ..", "what is written is named *.json"),
    ("search --model digits-vit --flops 0.7 --out /", "what is written is named *.json"),
    ("search --model digits-vit --flops 0.7 --out a_file/p.json", "Not a directory"),
    (f"search --model digits-vit --flops 0.7 --out {'x' * 245}.json", "File name too long"),
    (
        "search --model digits-vit --flops 0.7 --images photos --out photos/p.json",
        "photos/p.png would be taken for one of the images",
    ),
    ("show photo.png --model digits-vit --out photo.png", "would overwrite photo.png, which is"),
    ("show photo.png --model digits-vit --out ./photo.png", "would overwrite photo.png"),
    ("show photo.png --model digits-vit --out link.png", "would overwrite photo.png"),
    ("show photo.png --model digits-vit --out a.pdf", "what is written is named *.png"),
    ("show photo.png --model digits-vit --out a.svg", "what is written is named *.png"),
    ("show photo.png --model digits-vit --out a", "what is written is named *.png"),
    ("show photo.png --model digits-vit --out a_folder", "what is written is named *.png"),
    ("show photo.png --model digits-vit --out folder.png", "folder.png: it is a directory"),
    ("show photo.png --model digits-vit --out a_file/a.png", "Not a directory"),
    (f"show photo.png --model digits-vit --out {LONG}.png", "File name too long"),
    ("export digits-vit --out a.pt", "what is written is named *.onnx"),
    ("export digits-vit --out a_folder", "what is written is named *.onnx"),
    ("export digits-vit --out folder.onnx", "folder.onnx: it is a directory"),
    ("export digits-vit --out a_file/a.onnx", "Not a directory"),
    (f"export digits-vit --out {LONG}.onnx", "File name too long"),
]
READ = [
    *(
        (f"{command} --images {given}", says)
        for command in ("bench --model digits-vit", "search --model digits-vit --flops 0.7")
        for given, says in [
            ("missing", "missing is not a directory"),
            ("a_file", "a_file is not a directory"),
            ("photo.png", "photo.png is not a directory"),
            ("a_folder", "a_folder holds no images"),
            ("tiny", "none of the 1 images can be used"),
            ("broken", "none of the 1 images can be used"),
            (LONG, "File name too long"),
        ]
    ),
    ("bench --model digits-vit --images photos --labels", "--labels needs photos/labels.csv"),
    ("bench --model saliency-vit-s14 --images missing", "missing is not a directory"),
    ("show missing.png --model digits-vit", "missing.png is not a file"),
    ("show a_folder --model digits-vit", "a_folder is not a file"),
    ("show a_file --model digits-vit", "a_file cannot be read as an image"),
    ("show cut.png --model digits-vit", "cut.png cannot be read as an image"),
    ("show broken/1.jpg --model digits-vit", "broken/1.jpg cannot be read as an image"),
    ("show tiny/1.png --model digits-vit", "tiny/1.png is 4x4 pixels"),
    (f"show {LONG}.png --model digits-vit", "File name too long"),
    *(
        (f"{command} {given}", says)
        for command in (*BATCHES, "export digits-vit", "show photo.png --model digits-vit")
        for given, says in [
            ("--import no_module", "--import no_module: there is no such module"),
            ("--import none.py", "--import none.py: there is no such file"),
            ("--import ''", "--import"),
            ("--import raises.py", "RuntimeError: two lines"),
            ("--import exits.py", "--import exits.py: SystemExit: 0"),
            ("--import syntax.py", "SyntaxError"),
            (f"--import {LONG}.py", "--import"),
        ]
    ),
    ("bench --model digit-vit", "did you mean digits-vit"),
    ("bench --model ''", "unknown model ''"),
    ("bench --model timm:", "timm has no model ''"),
    ("bench --model timm:no_such", "timm has no model 'no_such'"),
    ("bench --model digits-vit --random-weights", "brings its own weights"),
    ("bench --model digits-vit --checkpoint weights.pth", "brings its own weights"),
    ("show photo.png --model nothing", "unknown model 'nothing'"),
    ("show photo.png --model scenes-vlm", "scenes-vlm answers questions: it goes with"),
    ("bench --model photos-vml", "did you mean photos-vlm?"),
    ("search --model nothing --flops 0.7", "unknown model 'nothing'"),
    ("search --model digits-resnet --flops 0.7 --samples 4", "finds plans for tokens"),
    ("export nothing", "unknown model 'nothing'"),
    ("bench --model timm:vit_tiny_patch16_224 --checkpoint none.pth", "none.pth is not a file"),
    (
        f"bench --model timm:vit_tiny_patch16_224 --checkpoint {LONG}.pth --out o",
        "File name too long",
    ),
    ("bench --model timm:vit_tiny_patch16_224 --checkpoint weights.pth", "weights.pth"),
    (
        "bench --model timm:vit_tiny_patch16_224 --checkpoint weights.safetensors",
        "weights.safetensors",
    ),
    ("retrieve --model umt-x", "unknown model 'umt-x'"),
    ("retrieve --model ''", "unknown model ''"),
    ("retrieve --data msrvtt", "clips-umt brings its own weights and clips"),
    ("retrieve --model umt-b16", "--data is None; expected one of"),
    ("retrieve --model umt-b16 --data ../../x", "--data is ../../x; expected one of"),
    ("retrieve --model umt-b16 --data msrvtt-qa", "--data is msrvtt-qa; expected one of"),
    ("answer --model umt-b16 --data msrvtt", "--data is msrvtt; expected one of"),
    ("retrieve --model umt-b16 --data msvd", "msvd needs --root DIR"),
    ("retrieve --model umt-b16 --data msvd --root missing", "cannot be read"),
    (f"retrieve --model umt-b16 --data msvd --root {LONG}", "File name too long"),
]
FITS = [
    ("bench --model digits-vit --plan 0:64", "drops 64 of the 64 patch tokens at block 0"),
    ("bench --model digits-vit --plan deit 11:64", "drops 64 of the 64 patch tokens at block 11"),
    ("bench --model digits-vit --plan 0:40,3:40", "drops 40 of the 24 patch tokens at block 3"),
    ("bench --model digits-vit --plan 99:0.2", "this model has 12 blocks"),
    (f"bench --model digits-vit --plan 1{'0' * 300}:0.2", "this model has 12 blocks"),
    ("bench --model digits-vit --plan resnet", "takes rows and columns out"),
    ("bench --model digits-vit --methods border", "border needs the grid of a ResNet's stage"),
    ("bench --model digits-vit --methods 'shift(mixer)'", "needs Mamba blocks"),
    ("bench --model digits-resnet --plan deit", "this model has 4 stages"),
    ("bench --model digits-resnet --methods tome", "tome takes out tokens"),
    (
        "bench --model digits-resnet --methods random 'random + rows-and-columns'",
        "stands in the comparison twice",
    ),
    ("show photo.png --model digits-vit --plan 12:0.2", "this model has 12 blocks"),
    ("show photo.png --model digits-vit --plan 0:99", "drops 99 of the 64"),
    ("export digits-vit --plan 12:0.2", "this model has 12 blocks"),
    ("export digits-vit --plan 0:99", "drops 99 of the 64"),
    ("bench --model digits-vit --batch-size 2000000000", "a batch takes 8192 GB, and cpu has"),
    ("retrieve --plan 9:0.2", "the plan drops at block 9"),
    ("retrieve --plan 0:99999", "drops 99999 of the 800 patch tokens at block 0"),
    ("retrieve --methods random border", "border needs the grid of a ResNet's stage"),
    ("answer --plan umt-qa 0:99999", "drops 99999 of the 800 patch tokens at block 0"),
    ("answer --methods 'shift(mixer)'", "needs Mamba blocks"),
]
TWICE = [
    (f"{command} {given}", says)
    for command in COMPARING
    for given, says in [
        ("--plan deit deit", "--plan deit is given already; give it once"),
        ("--plan 0:0.2 0:.2", "--plan 0:.2 is the same as 0:0.2, which is given already"),
        ("--plan 0:0.2 umt-qa good.json", "--plan good.json is the same as 0:0.2"),
        ("--methods tome tome", "--methods tome is given already; give it once"),
        ("--methods shift 'shift(mlp, l2)'", "is the same as shift, which is given already"),
        ("--methods random 'random(0)'", "is the same as random, which is given already"),
    ]
]
TWICE += [
    (f"{command} --compare {given}", "--compare chooses the methods and takes one --plan")
    for command in ("retrieve", "answer")
    for given in ("--methods random", "--plan umt-qa 0:0.2")
]

TABLE = [
    *((f"{command} --plan {given}", says) for command, (given, says) in product(PLANNED, PLANS)),
    *((f"{command} {given}", says) for command, (given, says) in product(BY_METHOD, METHODS)),
    *((f"{command} {given}", says) for command, (given, says) in NUMBERS),
    *PLACES,
    *READ,
    *FITS,
    *TWICE,
]
