"""What the engine is asked for one consultation: prompt, limits and sampling, for the chat route and `edgemed ask`."""

from __future__ import annotations

import secrets

from edgemed.core.prompt import PromptPart
from edgemed.engines.base import Engine, EngineInfo, GenerationRequest, Sampling
from edgemed.serve.answer_form import AnswerForm
from edgemed.serve.consultation import Consultation
from edgemed.serve.errors import ApiError
from edgemed.serve.options import ServeOptions
from edgemed.serve.schemas import ChatRequest

_UINT32 = 2**32


def generation_of(
    engine: Engine,
    info: EngineInfo,
    case: Consultation,
    request: ChatRequest,
    options: ServeOptions,
    answer_id: str,
    peer: str = "",
    form: AnswerForm | None = None,
) -> GenerationRequest:
    """The question as the engine wants it, at the pace of its class. Raises ApiError 400 when it does not fit.

    `peer` is the asker's address: whose turn it is, where there is no session.
    """
    prompt = prompt_ids(engine, info, case)
    return GenerationRequest(
        id=answer_id,
        prompt=tuple(prompt),
        max_tokens=answer_limit(
            len(prompt), request.token_limit, case.pace.max_tokens, info, options, case.conversation.param
        ),
        sampling=sampling_of(request, case),
        stop=tuple(request.stop or ()),
        deadline_s=options.deadline_s,
        adapter=options.adapter_of(request.model),
        lane="emergency" if case.emergency and not case.conversation.raw else "normal",
        client=request.session or peer,
        session=request.session or "",
        reasoning_limit=None if case.conversation.raw else case.pace.reasoning_tokens,
        grammar="" if form is None else form.grammar,
        top_logprobs=request.n_likeliest,
    )


def prompt_ids(engine: Engine, info: EngineInfo, case: Consultation) -> list[int]:
    """Token ids of the conversation in the project's medical template and the model's chat template.

    A raw text is only cut into tokens: none of its words becomes a special token.
    """
    if case.conversation.raw:
        return engine.tokenize([PromptPart(case.conversation.question, special=False)])
    from edgemed.medical.prompts import messages_for
    from edgemed.models.chat_template import render_chat

    messages = messages_for(
        case.conversation.question,
        case.conversation.history,
        category=case.classification.prompt_category,
        language=case.language,
        folder=case.languages_folder,
    )
    parts = render_chat(info.chat_template, messages, bos_token=info.bos_token, eos_token=info.eos_token)
    return engine.tokenize(parts)


def answer_limit(
    n_prompt: int, asked: int | None, pace: int, info: EngineInfo, options: ServeOptions, param: str = "messages"
) -> int:
    """Tokens the answer may have: the wish, else what its class needs. Raises ApiError 400 when it does not fit.

    Without a wish, at least a 64-token answer must fit (an eighth of a very small context).
    """
    context = info.context_length
    limit = context - min(64, context // 8)
    fits = n_prompt + (asked or context - limit) <= context
    if asked and not fits and n_prompt <= limit:
        raise ApiError(
            400,
            f"max_tokens is too large: {asked} tokens were asked for the answer; the question takes {n_prompt} of "
            f"{context}, which leaves {context - n_prompt}. Ask for fewer, or leave it out.",
            code="context_length_exceeded",
            param="max_tokens",
        )
    if not fits:
        raise ApiError(
            400,
            f"The question is too long: {n_prompt} tokens with its instructions and earlier turns; the limit is "
            f"{limit} tokens ({context} in all, the rest is kept for the answer). Shorten it, or begin a new "
            "conversation.",
            code="context_length_exceeded",
            param=param,
        )
    return asked or min(pace, options.answer_tokens, context - n_prompt)


def sampling_of(request: ChatRequest, case: Consultation) -> Sampling:
    """The caller's wish, else the pace of the question's class; a random seed only where chance plays a part."""
    seed = request.seed
    if seed is None:
        seed = secrets.randbelow(_UINT32) if case.pace.temperature else 0
    return Sampling(
        temperature=case.pace.temperature,
        top_p=case.pace.top_p,
        top_k=request.top_k or 0,
        min_p=request.min_p or 0.0,
        seed=seed % _UINT32,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
    )
