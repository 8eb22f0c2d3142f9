"""Publishing from within a training: the same staging, checks and single commit as the command `publish`."""

import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ...common.claims import read_record, write_stamped
from ...common.errors import UsageError
from ...common.model_files import CONFIGS, CONVERSION, GOLDEN, RUN_FILE, SPEEDS, SPEEDS_PICTURE, WEIGHTS
from ...publishing.upload import PublishError, Repository, check_installed, explained, upload_folder
from ..arguments.training_arguments import ViTTrainingArguments

logger = logging.getLogger(__name__)


@contextmanager
def log_failure(message: str) -> Iterator[None]:
    """Log an exception raised inside, and go on."""
    try:
        yield
    except Exception:
        logger.exception(f"NOT PUSHED: {message}. The training goes on; its end publishes the model")


class Pusher:
    """The publishing of a run, by one process: checkpoints in the background, the finished folder at the end."""

    def __init__(self, args: ViTTrainingArguments):
        self.args, self.repo_id = args, str(args.hub_model_id)
        self.pool = ThreadPoolExecutor(1)
        self.job: Future[None] | None = None

    def open(self) -> None:
        """Create the repository before training starts. Raises UsageError if the run could not be published there."""
        try:
            check_installed()
            with explained(self.repo_id):
                repository = Repository(self.repo_id, "model")
                repository.open(bool(self.args.hub_private_repo), self.args.hub_revision)
                there = repository.files(repository.head(self.args.hub_revision or "main"))
            self._demand_room(there)
        except PublishError as error:
            raise UsageError(f"--push_to_hub: {error}") from error

    def _demand_room(self, there: Iterable[str]) -> None:
        """Raises PublishError for files of an earlier model that the first push would leave in place."""
        from ...publishing.code_files import SHIPPED
        from ...publishing.others import stale
        from ...publishing.staging import OPTIONAL

        written = {*CONFIGS, WEIGHTS, RUN_FILE, CONVERSION, GOLDEN}
        written |= {path.name for path in SHIPPED.glob("*_vit_custom.py")}
        if self.args.hub_strategy == "end":
            written |= {*OPTIONAL} - {SPEEDS, SPEEDS_PICTURE}
        if left := {name: why for name, why in stale(there).items() if name not in written}:
            said = "; ".join(f"{name} ({why})" for name, why in list(left.items())[:10])
            earlier = "" if self.args.hub_strategy == "end" else ", give --hub_strategy end"
            raise PublishError(
                f"{self.repo_id} holds files that would be false or unsafe beside the new model: {said}. Remove them "
                f"there{earlier}, or name another repository or --hub_revision."
            )

    def push_checkpoint(self, checkpoint: str | Path, message: str) -> None:
        """Stage the checkpoint now and publish it in the background; a failure is logged and stops nothing.

        A checkpoint is skipped while an earlier push is still running, unless hub_always_push is set.
        """
        from ...publishing.staging import stage

        if self.job is not None and not self.job.done() and not self.args.hub_always_push:
            logger.warning(f"NOT PUSHED: {message}; the push before it is still under way")
            return
        copy = Path(tempfile.mkdtemp(prefix="push-"))
        with log_failure(message):
            stage(Path(checkpoint), copy / "checkpoint", say=logger.debug)
            for name in (RUN_FILE, CONVERSION):
                if record := read_record(Path(str(self.args.output_dir)) / name):
                    write_stamped(copy / "checkpoint" / name, record)
            self.job = self.pool.submit(self._publish_copy, copy, message)
            return
        shutil.rmtree(copy, ignore_errors=True)

    def _publish_copy(self, copy: Path, message: str) -> None:
        from ...publishing.publish import find_origin, prepare

        private, revision = bool(self.args.hub_private_repo), self.args.hub_revision
        with log_failure(message):
            origin = find_origin(copy / "checkpoint", self.args.hub_license)
            prepare(copy / "checkpoint", copy / "staged", self.repo_id, origin)
            upload_folder(copy / "staged", self.repo_id, private=private, revision=revision, message=message)
        shutil.rmtree(copy, ignore_errors=True)

    def wait(self) -> None:
        """Wait until no push is running."""
        if self.job is not None:
            self.job.result()

    def push_final(self, message: str | None = None, revision: str | None = None) -> str:
        """Publish the output folder; return the commit's SHA. Raises PublishError with the command to try again."""
        from ...publishing.publish import find_origin, publish

        folder, private = str(self.args.output_dir), bool(self.args.hub_private_repo)
        branch = revision or self.args.hub_revision
        self.wait()
        try:
            origin = find_origin(folder, self.args.hub_license)
            return publish(folder, self.repo_id, origin, private=private, revision=branch, message=message)
        except PublishError as error:
            flags = f"{' --private' if private else ''}{f' --revision {branch}' if branch else ''}"
            again = (
                f"vit-custom publish --model {folder} --repo_id {self.repo_id} --license {self.args.hub_license}{flags}"
            )
            raise PublishError(
                f"the trained model is in {folder}, but is not published: {error}\nAgain: {again}"
            ) from error
