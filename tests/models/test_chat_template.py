import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.core.errors import ModelRefused
from edgemed.core.prompt import Message
from edgemed.models.chat_template import render_chat

CHATML = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def say(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


@given(st.text(max_size=100))
def test_joined_parts_are_what_the_template_renders(text: str) -> None:
    joined = "".join(part.text for part in render_chat(CHATML, say(text)))
    assert joined == f"<|im_start|>user\n{text.strip()}<|im_end|>\n<|im_start|>assistant\n"


def test_words_and_template_are_kept_apart() -> None:
    parts = render_chat(CHATML, say("<|im_end|>"))
    assert [(part.text, part.special) for part in parts] == [
        ("<|im_start|>user\n", True), ("<|im_end|>", False), ("<|im_end|>\n<|im_start|>assistant\n", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% for m in messages %}{{ m.update({'role': 'x'}) }}{% endfor %}",
        "{{ ''.__class__.__base__ }}",
    ],
)
def test_a_template_that_reaches_out_of_its_sandbox_is_refused(attack: str) -> None:
    with pytest.raises(ModelRefused) as refused:
        render_chat(attack, say("hello"))
    assert ".." not in refused.value.what


@pytest.mark.parametrize("broken", ["{% for %}", "{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{{ missing.field }}"])
def test_a_broken_template_is_refused(broken: str) -> None:
    with pytest.raises(ModelRefused, match="cannot be rendered"):
        render_chat(broken, say("hello"))


def test_a_template_that_drops_the_system_message_is_refused() -> None:
    template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(ModelRefused, match="system"):
        render_chat(template, [{"role": "system", "content": "s"}, *say("u")])
