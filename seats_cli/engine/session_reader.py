"""Reading an index: a session without the clip, every part of it checked before it is used.

An index may come from anybody. What follows from the model or from another part of the file is not
believed: shapes, precisions, counts and layers are worked out again and compared, numbers have to
be finite, and nothing is computed from a size that only the file claims.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from seats_cli import __version__
from seats_cli.config import FULL, SeatsConfig
from seats_cli.cost.token_counts import MediaSizes, as_encoded, token_counts
from seats_cli.engine.clip_prefix import (
    NOT_SAVED,
    ClipPrefix,
    PrefixStore,
    SettingKey,
    first_cut,
    setting_key,
)
from seats_cli.engine.encoder_cache import EncoderCache, Encoding, output_class
from seats_cli.engine.encoder_stats import EncoderCall
from seats_cli.engine.session_file import (
    CHECKSUMS,
    DTYPES,
    FORMAT_VERSION,
    INDEX,
    MODALITIES,
    IndexedEncoding,
    IndexedModel,
    IndexFacts,
    checksum,
    content,
    read_header,
    stand_ins,
)
from seats_cli.engine.strict_document import (
    MisfitError,
    build,
    check_media,
    check_texts,
    spelled_out,
)
from seats_cli.errors import ConfigError, ModelError, ResourceError, UsageError, out_of_memory_on
from seats_cli.media.clip import Clip
from seats_cli.models.adapter import SideTensors
from seats_cli.models.checkpoint import has_weights
from seats_cli.models.inputs import PreparedClip, build_inputs
from seats_cli.schedule import PruningPlan
from seats_cli.selection.methods import acting_config, method_for

if TYPE_CHECKING:
    from seats_cli.models.load import LoadedModel

_MOST_SETTINGS = 256
_MOST_STRETCH = 1000.0  # of a pixel, in width or height
_AGAIN = "index the clip again"


class SavedIndex:
    """An index whose header has been read; tensors follow when they are needed.

    Parameters
    ----------
    path : Path

    Raises
    ------
    UsageError
        If it is not an index, of another format or another seats, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explaining():
            if path.exists() and not path.is_file():  # a pipe would be waited for
                raise UsageError(f"{path} cannot be read: it is not a file.")
            try:
                with path.open("rb") as file:
                    header = read_header(file)
            except OSError as error:
                reason = error.strerror or error
                raise UsageError(f"{path} cannot be read: {reason}.") from error
            metadata = header["__metadata__"]
            self._check_version(metadata.get("format_version"))
            text = str(metadata.get(INDEX))
            self._sums = json.loads(str(metadata.get(CHECKSUMS)))
            self._check_sum(INDEX, text.encode())
            document = json.loads(text)
            # The system turn and the file's name are never printed as they are.
            for name, part in document.items() if isinstance(document, dict) else ():
                check_texts(name if name in ("system", "file") else {name: part})
            self.facts = facts = build(IndexFacts, document, "")
            if facts.seats_version != __version__:
                raise UsageError(
                    f"{path} was made by seats {facts.seats_version}, and this is {__version__}, "
                    f"which may answer differently: {_AGAIN}."
                )
            if len(facts.settings) > _MOST_SETTINGS:
                raise MisfitError("it has impossible settings")
            check_media(facts.media, facts.fps)
            if not 1 / _MOST_STRETCH <= facts.pixel_shape <= _MOST_STRETCH:
                raise MisfitError("pixel_shape is impossible")
            # The library checks that the header and the file agree in every byte.
            self._tensors: Any = safe_open(path, "pt")
            self._names = frozenset(header)

    def _check_version(self, version: Any) -> None:
        if version == str(FORMAT_VERSION):
            return
        newer = str(version).isdecimal() and int(str(version)[:9]) > FORMAT_VERSION
        remedy = "update seats" if newer else _AGAIN
        raise UsageError(
            f"{self.path} is an index of format {str(version)[:9]!r}, and this seats reads format "
            f"{FORMAT_VERSION}: {remedy}."
        )

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turn whatever a damaged file causes into one sentence."""
        try:
            yield
        except (
            MisfitError,
            SafetensorError,
            ConfigError,
            ModelError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            if out_of_memory_on(error) is not None:
                raise
            reason = str(error) if isinstance(error, MisfitError) else "it is damaged"
            raise UsageError(
                f"{self.path} is not an index that can be used, because {reason}: {_AGAIN}."
            ) from error

    def tensor(self, name: str, dtype: torch.dtype, shape: tuple[int | None, ...]) -> Tensor:
        """A tensor, mapped into memory; `None` in the shape is any size.

        Raises
        ------
        MisfitError
            If it is not there, has another dtype or shape, holds what is not a number, or has
            changed since it was written.
        """
        if name not in self._names:
            raise MisfitError(f"it lacks {name!r}")
        part = self._tensors.get_slice(name)
        found = tuple(part.get_shape())
        fits = len(found) == len(shape) and all(
            size in (None, there) for size, there in zip(shape, found, strict=True)
        )
        if not fits or DTYPES.get(part.get_dtype()) != dtype:
            raise MisfitError(f"{name!r} does not fit")
        value: Tensor = self._tensors.get_tensor(name)
        if value.is_floating_point() and not value.sum(dtype=torch.float32).isfinite():
            raise MisfitError(f"{name!r} holds what is not a number")
        self._check_sum(name, content(value))
        return value

    def _check_sum(self, name: str, value: bytes | memoryview) -> None:
        if self._sums.get(name) != checksum(value):
            raise MisfitError(f"{name!r} is not what was written")

    def open(
        self, loaded: LoadedModel, system: str | None = None
    ) -> tuple[PreparedClip, EncoderCache, PrefixStore]:
        """What a session keeps, for the model that it was made with.

        Raises
        ------
        UsageError
            If the model or its dtype is another one, or the file does not fit it.
        """
        facts, now = self.facts, IndexedModel.of(loaded)
        difference = facts.model.difference(now)
        if difference is not None:
            raise UsageError(f"{self.path} was made {difference}.")
        if system not in (None, facts.system):
            raise UsageError(
                f"{self.path} was made with another system turn, which stands before the clip: "
                f"leave `system` out, or {_AGAIN}."
            )
        with self._explaining():
            prepared = self._prepared(loaded, (*facts.warnings, *self._warnings(loaded, now)))
            sizes = loaded.adapter.media_sizes(prepared.features)
            self._check_prompt(loaded, prepared, sizes)
            if as_encoded(loaded.architecture, prepared.clip, sizes) != facts.media:
                raise MisfitError("media are not those that were encoded")
            encoders = self._encoders(loaded, sizes)
            prefixes = PrefixStore(prepared, saved=self._prefixes(loaded), saved_only=facts.only)
        return prepared, encoders, prefixes

    def _warnings(self, loaded: LoadedModel, now: IndexedModel) -> Iterator[str]:
        facts = self.facts
        changed = None if facts.file is None else facts.file.changed_beside(self.path)
        if changed is not None:
            yield (
                f"{spelled_out(str(changed))} is not the file any more that {self.path} was made "
                f"of, and which the answers are about: {_AGAIN}."
            )
        if facts.model.device != now.device:
            yield (
                f"{self.path} was made on {facts.model.device} and is asked on {now.device}, where "
                "numbers are rounded differently: answers may differ from those about the clip."
            )
        settings = self._settings(loaded).values()
        stale = (one[1].config.method for one in settings if self._is_stale(loaded, *one))
        for method in dict.fromkeys(stale):
            then = "it cannot be asked with" if facts.only else "questions prefill the clip again"
            yield f"{self.path} was made with other weights of '{method}', so {then}: {_AGAIN}."

    def _prepared(self, loaded: LoadedModel, warnings: tuple[str, ...]) -> PreparedClip:
        """The clip's inputs, with stand-ins for what goes into the encoders."""
        facts, device = self.facts, loaded.model.device
        inputs: dict[str, Any] = dict(facts.switches)
        for name in facts.tensors:
            part = self._any(f"inputs.{name}", loaded.model.dtype)
            inputs[name] = part.to(device)
        inputs |= stand_ins(loaded, inputs)
        times = None
        if "frame_times" in self._names:
            shape = (facts.media.frames_used,)
            times = self.tensor("frame_times", torch.float64, shape).numpy()
            if (np.diff(times, prepend=0.0) < 0.0).any():
                raise MisfitError("frame_times are impossible")
        clip = Clip(None, times, facts.fps, None, facts.media, warnings, facts.pixel_shape)
        template = self.tensor("template", torch.int64, (None,))
        return PreparedClip(clip, template, inputs, facts.system)

    def _any(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor of whole numbers or of the model's dtype, in any shape."""
        if name not in self._names:
            raise MisfitError(f"it lacks {name!r}")
        part = self._tensors.get_slice(name)
        kind, shape = DTYPES.get(part.get_dtype()), tuple(part.get_shape())
        if kind not in (torch.int64, torch.int32, torch.bool, dtype):
            raise MisfitError(f"{name!r} does not fit")
        assert kind is not None
        return self.tensor(name, kind, shape)

    def _check_prompt(self, loaded: LoadedModel, prepared: PreparedClip, sizes: MediaSizes) -> None:
        """The prompt holds as many tokens of the clip as its grids and masks say."""
        ids, adapter = prepared.template, loaded.adapter
        entries = loaded.model.get_input_embeddings().num_embeddings
        if not len(ids) or int(ids.min()) < 0 or int(ids.max()) >= entries:
            raise MisfitError("its prompt is not made of the model's tokens")
        counts = tuple(
            int((ids == token).sum()) for token in (adapter.video_token_id, adapter.audio_token_id)
        )
        if counts != token_counts(loaded.architecture, sizes) or not any(counts):
            raise MisfitError("its prompt does not hold the clip")
        if len(sizes.grids) > 1 or len(sizes.mel_frames) > 1:
            raise MisfitError("it holds several clips")
        with suppress(ResourceError):  # which depends on the question
            build_inputs(loaded, prepared, None)

    # ------------------------------------------------------------ encoders

    def _encoders(self, loaded: LoadedModel, sizes: MediaSizes) -> EncoderCache:
        found: dict[str, list[Encoding]] = {modality: [] for modality in MODALITIES}
        counts = dict(zip(MODALITIES, token_counts(loaded.architecture, sizes), strict=True))
        for encoding in self.facts.encodings:
            count = counts.pop(encoding.modality, 0)
            if not count:
                raise MisfitError(f"it has no {encoding.modality} to encode")
            found[encoding.modality] = list(self._encodings(loaded, sizes, encoding, count))
        if any(counts.values()):
            raise MisfitError("an encoder's output is missing")
        return EncoderCache.closed(**found)

    def _encodings(
        self, loaded: LoadedModel, sizes: MediaSizes, encoding: IndexedEncoding, count: int
    ) -> Iterator[Encoding]:
        """An encoder's output, n tokens, with the statistics for each size of windows."""
        seeing = encoding.modality == "video"
        encoder = loaded.adapter.visual if seeing else loaded.adapter.audio_tower
        device, dtype = next(encoder.parameters()).device, loaded.model.dtype
        width = loaded.architecture.hidden_size

        def states(name: str) -> Tensor:
            if not self.facts.encoded:  # no setting looks at them
                return torch.zeros((), dtype=dtype, device=device).expand(count, width)
            return self.tensor(f"{encoding.modality}.{name}", dtype, (count, width)).to(device)

        # 1. The output as the encoder gives it, as far as the model reads it.
        kind = output_class(encoding.output, encoder)
        named = {part.name for part in fields(kind)} & {"last_hidden_state", "pooler_output"}
        if ("pooler_output" if seeing else "last_hidden_state") not in named:
            raise MisfitError("an encoder's output is of another kind")
        parts: dict[str, Any] = dict.fromkeys(named, states("tokens"))
        deep = loaded.architecture.deepstack_layers if seeing else 0
        if deep:
            parts["deepstack_features"] = [states(f"deepstack.{number}") for number in range(deep)]
        output = kind(**parts)
        # 2. Sizes as `EncoderStatistics` notes them.
        grid = 1
        if seeing:
            ((_, height, width_),) = sizes.grids
            grid = height * width_ // loaded.adapter.merge_unit
        for window in encoding.windows:
            if window < 1:
                raise MisfitError("a window is empty")
            yield Encoding(
                arguments=None,
                output=output,
                calls=(
                    EncoderCall(
                        self._statistics(encoding, window, "importance", (count,)).to(device),
                        (count,),
                        (window * grid,),
                        (grid,) if seeing else (),
                        self._statistics(encoding, window, "keys", (count, None)).to(device),
                    ),
                ),
                window=window,
                skips=None,
            )

    def _statistics(
        self, encoding: IndexedEncoding, window: int, name: str, shape: tuple[int | None, ...]
    ) -> Tensor:
        if not self.facts.encoded:
            return torch.zeros(())
        return self.tensor(f"{encoding.modality}.{window}.{name}", torch.float32, shape)

    # ------------------------------------------------------------ prefixes

    def _settings(self, loaded: LoadedModel) -> dict[SettingKey, tuple[int, PruningPlan]]:
        """The settings whose states are kept, numbered, by their keys."""
        known: dict[SettingKey, tuple[int, PruningPlan]] = {}
        for number, setting in enumerate(self.facts.settings):
            config = SeatsConfig.from_dict(setting.config)
            plan = PruningPlan.resolve(config, loaded.architecture)
            method = method_for(plan)
            alone = (
                method.shares == "entry" and setting.depth >= loaded.architecture.deepstack_layers
            )
            if not self.facts.encoded and not (alone and self.facts.only):
                raise MisfitError("it lacks the encoders' outputs")
            known[setting_key(plan, method)] = number, plan
        if not self.facts.encoded and not known:
            raise MisfitError("there is nothing in it")
        return known

    def _is_stale(self, loaded: LoadedModel, number: int, plan: PruningPlan) -> bool:
        """Whether other weights of its method have chosen what is kept for a setting."""
        mark = self.facts.settings[number].weights
        return not has_weights(loaded.adapter, plan.config.method, mark)

    def _prefixes(self, loaded: LoadedModel) -> Callable[[SettingKey], ClipPrefix | None]:
        """What finds the states of a setting by its key."""
        known = self._settings(loaded)

        def find(key: SettingKey) -> ClipPrefix | None:
            if key not in known or self._is_stale(loaded, *known[key]):
                return None
            with self._explaining():
                return self._prefix(loaded, *known[key])

        return find

    def _prefix(self, loaded: LoadedModel, number: int, plan: PruningPlan) -> ClipPrefix:
        setting, shape = self.facts.settings[number], loaded.architecture
        dtype, layers = loaded.model.dtype, loaded.adapter.layers
        at = f"settings.{number}"
        # 1. Which tokens, and up to which layer.
        ids = self.tensor("ids", torch.int64, (None,))
        keep = self.tensor(f"{at}.keep", torch.bool, (len(ids),))
        count = int(keep.sum())
        method = method_for(plan)
        depth = first_cut(method, plan, len(layers))
        if setting.depth != depth and method.shares == "entry":
            raise MisfitError("it keeps other layers than its setting needs")
        if not 0 <= setting.entry_flops < 1 << 63:
            raise MisfitError("its choice took an impossible number of FLOPs")
        if not 1 <= setting.depth <= len(layers):
            raise MisfitError("it keeps more layers than there are")
        # 2. Their keys and values, each where the layer is.
        heads = (1, shape.num_kv_heads, count, shape.head_dim)
        places = [next(layer.parameters()).device for layer in layers[: setting.depth]]
        keys, values = (
            [
                self.tensor(f"{at}.{name}.{layer}", dtype, heads).to(place)
                for layer, place in enumerate(places)
            ]
            for name in ("keys", "values")
        )
        # 3. The states around the last of these layers, and what goes with them.
        states = (1, count, shape.hidden_size)
        left = self.tensor(f"{at}.left", dtype, states).to(places[-1])
        entered = left[:, :0]
        if method.reads_input:
            entered = self.tensor(f"{at}.entered", dtype, states).to(places[-1])
        sides = {}
        for name, few in setting.sides.items():
            if not 0 < few <= len(self._names):
                raise MisfitError("it needs an impossible number of tensors")
            parts = (self._side(f"{at}.{name}.{one}", dtype, count) for one in range(few))
            sides[name] = SideTensors(tuple(parts))
        facts = (setting.depth >= shape.deepstack_layers, setting.entry_flops)
        # On the CPU, these are parts of the file, which take no memory of their own.
        mapped = loaded.model.device.type == "cpu"
        return ClipPrefix(
            plan, ids, None, keep, setting.depth, keys, values, entered, left, sides, *facts, mapped
        )

    def _side(self, name: str, dtype: torch.dtype, count: int) -> Tensor:
        part = self._any(name, dtype)
        if part.ndim < 2 or part.shape[-2] != count:
            raise MisfitError(f"{name!r} does not fit")
        return part

    def check_setting(self, loaded: LoadedModel, config: SeatsConfig | None, seed: int) -> None:
        """Refuse a setting that an index of some settings only cannot answer with.

        Raises
        ------
        UsageError
        """
        if not self.facts.only:
            return
        config = SeatsConfig(method=FULL) if config is None else replace(config, seed=seed)
        plan = PruningPlan.resolve(acting_config(config), loaded.architecture)
        known = self._settings(loaded).get(setting_key(plan, method_for(plan)))
        if known is None:
            raise UsageError(NOT_SAVED)
        if self._is_stale(loaded, *known):
            reason = f"other weights of '{plan.config.method}'"
            raise UsageError(f"{self.path} was made with {reason}: {_AGAIN}.")
