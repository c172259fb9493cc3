"""The server as clients meet it: OpenAI's own, and raw HTTP."""

from __future__ import annotations

import base64
import json

import httpx
import numpy as np
import pytest

from seats_cli import SeatsConfig, Turn, ask, read_clip
from seats_cli.errors import UsageError
from seats_cli.serve import ServeOptions
from seats_cli.serve.chat_request import parse_request
from tests.serve.conftest import CARDS, CAT, FIRST, LAST, SPEECH, data_url, openai
from tests.shapes import video_tokens


def test_answers_are_those_of_ask(server, loaded):
    clip = read_clip(CARDS, sizing=loaded.sizing)
    for question, config, seats in (
        (FIRST, SeatsConfig.preset("25%"), {}),
        (LAST, SeatsConfig(retain=0.1), {"retain": "10%"}),
        (
            LAST,
            SeatsConfig(retain=0.25, method="random", kv="survivors"),
            {"method": "random", "kv": "survivors"},
        ),
        (LAST, None, {"full": True}),
    ):
        alone = ask(loaded, clip, question, config=config)
        got = server.ask(CARDS, question, extra_body={"seats": seats})
        assert got.choices[0].message.content == alone.text
        assert got.choices[0].finish_reason == alone.finish_reason
        assert got.usage.completion_tokens == len(alone.token_ids)
        assert got.usage.prompt_tokens == alone.trace.length
        used = got.usage.model_extra["seats"]
        assert used["offered"]["total"] == alone.trace.length
        stages = alone.trace.stages
        kept = stages[-1].kept.numel() if stages else alone.trace.length
        assert used["kept"]["total"] == kept
        evidence = got.model_extra["seats"]["evidence"]
        assert [(one["start_s"], one["modality"]) for one in evidence] == [
            (one.start_s, one.modality) for one in alone.evidence
        ]


def test_turns_are_a_history(server, loaded):
    clip = read_clip(CARDS, sizing=loaded.sizing)
    alone = ask(
        loaded,
        clip,
        LAST,
        config=SeatsConfig.preset("25%"),
        system="Be brief.",
        history=[Turn(FIRST, "red")],
    )
    got = server.client().chat.completions.create(
        model="bundled",
        messages=[
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": FIRST},
                    {"type": "video_url", "video_url": {"url": CARDS.as_uri()}},
                ],
            },
            {"role": "assistant", "content": "red"},
            {"role": "user", "content": LAST},
        ],
    )
    assert got.choices[0].message.content == alone.text
    assert got.usage.prompt_tokens == alone.trace.length
    assert got.model_extra["seats"]["history_turns"] == 1


def test_a_stream_says_the_same_in_pieces(server):
    whole = server.ask(CARDS, FIRST)
    chunks = list(server.ask(CARDS, FIRST, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    finishes = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert finishes == [None] * (len(finishes) - 1) + ["stop"]
    assert chunks[-1].usage.model_dump() == {
        **whole.usage.model_dump(),
        "prompt_tokens_details": chunks[-1].usage.model_dump()["prompt_tokens_details"],
    }
    told = chunks[-2].model_extra["seats"]
    assert told["evidence"] == whole.model_extra["seats"]["evidence"]
    assert told["session"] == "open"


def test_sound_pictures_and_several_clips(server, loaded, tmp_path):
    from PIL import Image

    data = base64.b64encode(SPEECH.read_bytes()).decode()
    sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    got = server.ask(sound, "What do you hear?")
    # As Qwen's own API takes it.
    whole = {"data": f"data:;base64,{data}", "format": "wav"}
    url = server.ask({"type": "input_audio", "input_audio": whole}, "What do you hear?")
    assert url.choices[0].message.content == got.choices[0].message.content
    assert url.model_extra["seats"]["session"] == "open"
    clip = read_clip(SPEECH, sizing=loaded.sizing)
    alone = ask(loaded, clip, "What do you hear?", config=SeatsConfig.preset("25%"))
    assert got.choices[0].message.content == alone.text
    assert got.usage.prompt_tokens_details.audio_tokens == alone.trace.offered[1]

    Image.new("RGB", (112, 112), "red").save(tmp_path / "red.png")
    picture = {"type": "image_url", "image_url": {"url": data_url(tmp_path / "red.png")}}
    assert server.ask(picture, "What color is shown?").choices[0].message.content == "red"

    both = server.ask(
        CARDS, CAT, FIRST, extra_body={"media_io_kwargs": {"video": {"num_frames": 4}}}
    )
    offered = both.usage.model_extra["seats"]["offered"]
    assert offered["audio"] == 400  # 12 s and 4 s
    assert both.usage.model_extra["seats"]["kept"]["video"] < offered["video"]
    assert "is kept open" in " ".join(both.model_extra["seats"]["warnings"])
    silent = server.ask(
        CARDS, CAT, FIRST, extra_body={"mm_processor_kwargs": {"use_audio_in_video": False}}
    )
    assert silent.usage.prompt_tokens_details.audio_tokens == 0
    assert server.ask("Hello?").usage.prompt_tokens < 40


def test_settings_of_a_request(server, loaded):
    frames = server.ask(CARDS, FIRST, extra_body={"media_io_kwargs": {"video": {"fps": 1}}})
    facts = read_clip(CARDS, sizing=loaded.sizing).facts
    assert facts.frames_used == 24
    offered = video_tokens(12, facts.height, facts.width)
    assert frames.usage.model_extra["seats"]["offered"]["video"] == offered
    few = {"media_io_kwargs": {"video": {"num_frames": 4}}}
    silent = server.ask(
        CARDS, FIRST, extra_body={**few, "mm_processor_kwargs": {"use_audio_in_video": False}}
    )
    assert silent.usage.prompt_tokens_details.audio_tokens == 0
    short = server.ask(CARDS, FIRST, max_completion_tokens=1, extra_body=few)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 1)
    for parts in ((CARDS, FIRST), (CARDS, CAT, FIRST)):
        whole = server.ask(*parts, extra_body=few)
        text = whole.choices[0].message.content
        stop = text[1]
        cut = server.ask(*parts, stop=stop, extra_body=few)
        assert cut.choices[0].message.content == text[:1]
        assert cut.choices[0].finish_reason == "stop"
        assert cut.usage.completion_tokens < whole.usage.completion_tokens
        chunks = server.ask(*parts, stop=["never", stop], stream=True, extra_body=few)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text[:1]
    unknown = {"fooo": 1, "mm_processor_kwargs": {"bar": 2}}
    told = server.ask(CARDS, FIRST, extra_body={**few, **unknown})
    warnings = " ".join(told.model_extra["seats"]["warnings"])
    assert "fooo" in warnings
    assert "mm_processor_kwargs.bar" in warnings
    for parts in ((CARDS, FIRST), (CARDS, CAT, FIRST)):
        random = {"seats": {"method": "random", "fastv_layer": 3}}
        told = server.ask(*parts, extra_body={**few, **random})
        assert [one for one in told.model_extra["seats"]["warnings"] if "`fastv_layer`" in one]
        assert "fastv_layer" not in told.model_extra["seats"]["config"]


def test_keys_without_an_effect_are_named_once():
    def told(content, **more):
        talk = {"messages": [{"role": "user", "content": content, "name": "me"}], **more}
        return parse_request(json.dumps(talk).encode(), ServeOptions(), "bundled").warnings

    def sentence(name):
        return f"`{name}` is not known here and was ignored."

    url, text = {"url": "data:,x"}, {"type": "text", "text": "What?"}
    clip = {"type": "video_url", "video_url": {**url, "max_frames": 8}, "fps": 1, "uuid": "a"}
    assert told([clip, clip, {**text, "cache_control": {"type": "x"}}]) == (
        sentence("messages.content.fps"),
        sentence("video_url.max_frames"),
        sentence("messages.content.cache_control"),
    )
    still = {"type": "image_url", "image_url": {**url, "detail": "auto"}}
    sound = {"type": "input_audio", "input_audio": {"data": "eA==", "format": "wav"}}
    assert told([still, {"type": "audio_url", "audio_url": "data:,x"}, sound, text]) == ()
    # As OpenAI's client writes an answer that is sent back.
    assert told("x", reasoning=None) == told([{**text, "annotations": [], "refusal": None}]) == ()
    still["image_url"]["detail"], sound["input_audio"]["rate"] = "low", 8000
    assert told([still, sound, text], stream_options={"x": 1, "include_usage": True}) == (
        sentence("stream_options.x"),
        sentence("image_url.detail"),
        sentence("input_audio.rate"),
    )


def test_models_health_and_metrics(server):
    assert [model.id for model in server.client().models.list()] == ["bundled"]
    assert server.client().models.retrieve("bundled").owned_by == "seats"
    with pytest.raises(openai.NotFoundError):
        server.client().models.retrieve("other")
    assert httpx.get(f"{server.root}/health").json() == {"status": "ok"}
    before = server.metric('seats_requests_total{status="200"}')
    offered = server.metric("seats_tokens_offered_total")
    got = server.ask(CARDS, FIRST)
    assert server.metric('seats_requests_total{status="200"}') == before + 1
    assert server.metric("seats_tokens_offered_total") == offered + got.usage.prompt_tokens
    assert server.metric('seats_stage_seconds_count{stage="prefill"}') > 0


def test_a_key_is_asked_for(serving):
    server = serving(api_key="secret")
    bearer = {"authorization": "bearer secret"}
    assert httpx.get(f"{server.root}/v1/models", headers=bearer).status_code == 200
    basic = {"authorization": "Basic secret"}
    assert httpx.get(f"{server.root}/v1/models", headers=basic).status_code == 401
    for key in ("", "secre", "secrets", "SECRET"):
        with pytest.raises(openai.AuthenticationError):
            server.client(key or "none").models.list()
    assert httpx.get(f"{server.root}/metrics").status_code == 401
    assert httpx.get(f"{server.root}/health").status_code == 200
    assert [model.id for model in server.client("secret").models.list()] == ["bundled"]


def test_other_addresses_need_a_key():
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(UsageError, match="SEATS_API_KEY"):
            ServeOptions(host=host)
        ServeOptions(host=host, api_key="secret")
    for host in ("localhost", "127.0.0.1", "127.0.0.5", "::1"):
        ServeOptions(host=host)
    with pytest.raises(UsageError, match="blank"):
        ServeOptions(api_key=" ")


def test_json_of_a_stream_is_json(server):
    body = {"messages": [{"role": "user", "content": "Hello?"}], "stream": True}
    lines = [line for line in server.post(body).text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    for line in lines[:-1]:
        assert json.loads(line.removeprefix("data: "))["object"] == "chat.completion.chunk"


def test_every_token_is_told(loaded):
    clip, told = read_clip(CARDS, sizing=loaded.sizing), []
    answer = ask(loaded, clip, FIRST, config=None, on_token=lambda: told.append(1))
    assert len(told) == len(answer.token_ids)


def plain_clip(path, frames, rate):
    """A grey video without sound."""
    import av

    grey = np.full((112, 112, 3), 200, np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 112, 112, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
        container.mux(stream.encode(None))


def test_silent_videos_stand_beside_others(server, tmp_path):
    plain_clip(tmp_path / "silent.mp4", frames=8, rate=4)
    both = server.ask(CARDS, tmp_path / "silent.mp4", FIRST)
    assert both.usage.prompt_tokens_details.audio_tokens == 300
    alone = server.ask(tmp_path / "silent.mp4", FIRST)
    assert alone.usage.prompt_tokens_details.audio_tokens == 0
