"""File names in the folder of a model, of a run and of an export: each is written here, and nowhere else.

(Files that are copied on their own, such as a Space's app.py, repeat the names that they need.)
"""

# A saved model, as transformers knows it.
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
CONFIGS = (CONFIG, PROCESSOR)
WEIGHTS, WEIGHTS_INDEX, SHARDS = "model.safetensors", "model.safetensors.index.json", "model-*.safetensors"

# Records about the weights beside them, see `claims`.
METRICS, RUN_FILE, CONVERSION, SPEEDS = "metrics.json", "training_args.json", "conversion.json", "speeds.json"
GOLDEN, CARD = "golden.json", "README.md"
EXPORT = "export.json"

# An index of images that is published with its model, on request alone.
INDEX = "image_index"
INDEX_RECORD, INDEX_IMAGES, INDEX_VECTORS = (
    "image_index/index.json",
    "image_index/images.jsonl",
    "image_index/vectors.safetensors",
)

# Pictures, and the page of a run.
TRAINING_PICTURE, CONFUSION_PICTURE, RECONSTRUCTION_PICTURE = (
    "training.png",
    "confusion_matrix.png",
    "reconstruction.png",
)
SPEEDS_PICTURE = "speeds.png"
REPORT_PAGE = "report.html"

# A run's own files, from which it continues. Only the recipe is meant for others.
RECIPE_FILE, IMAGES, SEARCH = "recipe.yaml", "images.npz", "search.npz"
TRAIN_LOG = "train.log"  # what the command printed, for the person who trains: it names files of this machine
LOCK, LOCK_OWNER = ".lock", ".lock.owner"
TRAINER_STATE = "trainer_state.json"

# Folder in a run's folder, as --save_as names and writes it: the library for which it holds the same model.
CONVERTED_FOLDERS = {"hf": "transformers", "timm": "timm"}

# File name or pattern: its description in cards and reports.
FILES = {
    WEIGHTS: "weights",
    CONFIG: "architecture and labels",
    PROCESSOR: "what is done to an image before the model sees it",
    "*_vit_custom.py": "the code of model and processor, which transformers runs",
    GOLDEN: "the outputs that the example images must give",
    "examples": "example images",
    METRICS: "all figures, exact",
    RUN_FILE: "all settings of the training",
    CONVERSION: "where the weights come from, and what was assumed in converting them",
    SPEEDS: "what each speed setting gains and costs",
    SPEEDS_PICTURE: "the same as a picture",
    CONFUSION_PICTURE: "the confusion matrix",
    TRAINING_PICTURE: "the course of the training",
    INDEX: "vectors, names and labels of images, which `vit-custom search` compares",
    "LICENSE": "the licence",
    ".gitattributes": "which files Git LFS stores",
}
