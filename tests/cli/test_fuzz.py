"""Whatever is typed, the outcome is a documented exit code and at most one sentence."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DOCUMENTED = {0, 2, 3, 4, 5}

# Lone surrogates are how Python passes on an argument that is no UTF-8; a pipe has none.
words = st.text(st.characters(exclude_characters="\0"), max_size=12)
piped_text = st.text(max_size=12)
numbers = st.one_of(st.integers(), st.floats(), st.fractions()).map(str)
values = st.one_of(words, numbers, st.sampled_from(["10%", "1:15", "-", "--", "", "red,green"]))
VALUED = [
    "--start",
    "--end",
    "--fps",
    "--max-frames",
    "--max-pixels",
    "--video-track",
    "--audio-track",
    "--max-audio",
    "--retain",
    "--retain-video",
    "--retain-audio",
    "--kv",
    "--allocation",
    "--config",
    "--model",
    "-m",
    "--device",
    "--dtype",
    "--attn",
    "--revision",
    "--max-new-tokens",
    "--temperature",
    "--top-p",
    "--seed",
    "--choices",
]
FLAGS = [
    "--no-audio",
    "--audio",
    "--full",
    "--allow-local-urls",
    "--offline",
    "--json",
    "--quiet",
    "-q",
    "--no-stream",
    "--help",
    "-h",
]
options = st.one_of(
    st.tuples(st.sampled_from(VALUED), values),
    st.tuples(st.sampled_from(VALUED), values).map(lambda pair: (f"{pair[0]}={pair[1]}",)),
    st.tuples(st.sampled_from(FLAGS)),
    st.tuples(values),
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(options, max_size=5), st.booleans(), piped_text)
def test_ask_never_shows_a_traceback(run, clip, extra, with_video, piped):
    arguments = [clip, "What?"] if with_video else []
    arguments += [part for option in extra for part in option]
    result = run("ask", *arguments, input=piped)
    assert result.exit_code in DOCUMENTED, (arguments, result.output)
    assert "Traceback" not in result.output
    if result.exit_code != 0:
        assert result.stdout == ""
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(words, min_size=1, max_size=3))
def test_no_such_command(run, arguments):
    result = run(*arguments)
    assert result.exit_code in DOCUMENTED
    assert "Traceback" not in result.output
