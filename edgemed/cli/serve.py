"""`edgemed serve`: answers questions in the browser and over OpenAI's HTTP interface, here or in a clinic's network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgemed.cli.console import Console
from edgemed.cli.options import Adapters, Json, Verbose, adapter_files
from edgemed.core.errors import UsageError

if TYPE_CHECKING:
    import socket

    from edgemed.engines.balance import Balance
    from edgemed.engines.base import AdapterFile, Engine, EngineConfig
    from edgemed.plan.record import Plan
    from edgemed.serve.entrance import Entrance
    from edgemed.serve.memory import Memory
    from edgemed.serve.options import ServeOptions


def serve(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="A GGUF file, or a name such as: demo")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Refuse every connection to another machine.")] = False,
    host: Annotated[
        str | None,
        typer.Option(help="Default: 127.0.0.1, this machine alone. 0.0.0.0: the network, with access token and TLS."),
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one (default: 8080).")] = None,
    plan: Annotated[Path | None, typer.Option(help="A plan saved with: edgemed plan --save")] = None,
    slots: Annotated[int | None, typer.Option(min=1, max=64, help="Questions answered side by side.")] = None,
    adapter: Adapters = None,
    access_token_file: Annotated[
        Path | None, typer.Option(help="A file with the token to ask for; on a network one is made without it.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="The clinic's own certificate, with its chain (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    insecure_lan: Annotated[
        bool | None, typer.Option("--insecure-lan", help="Serve the network without encryption. Everybody can listen.")
    ] = None,
    require_gpu: Annotated[
        bool | None, typer.Option("--require-gpu", help="Do not start where no layer runs on a GPU.")
    ] = None,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget",
            help="Erase saved answers, the journal and unfinished questions. With MODEL, then serve and keep nothing "
            "on disk this time.",
        ),
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Serve a model in the browser until Ctrl-C; streaming, and with OpenAI's interface under /v1."""
    from edgemed.core.privacy import forbid_core_dumps, forbid_tracebacks
    from edgemed.core.settings import data_dir, project_settings
    from edgemed.demo.supported import checked_facts
    from edgemed.engines.registry import open_engine
    from edgemed.serve.care import WarmUp
    from edgemed.serve.entrance import open_entrance
    from edgemed.serve.memory import open_memory
    from edgemed.serve.server import listen, stop_signals_raise
    from edgemed.serve.status import language_statuses

    forbid_core_dumps()
    forbid_tracebacks()
    console = Console(json_mode=json, verbose=verbose)
    if offline:
        _go_offline()
    with stop_signals_raise():
        if forget and model is None and plan is None:
            _forget(console)
            return
        path = _model_path(model, plan)
        settings = project_settings()
        adapters = adapter_files(adapter, settings.serve.adapters, path)
        language_statuses(settings.medical.languages)  # a malformed language file is refused before the model is loaded
        lists = WarmUp(checked_facts, settings.medical.languages)
        given = {
            "host": host,
            "port": port,
            "access_token_file": access_token_file,
            "tls_cert": tls_cert,
            "tls_key": tls_key,
            "insecure_lan": insecure_lan,
            "require_gpu": require_gpu,
        }
        wishes = settings.serve.model_copy(update={name: value for name, value in given.items() if value is not None})
        entrance = open_entrance(wishes, data_dir())
        for words in entrance.first_words():
            console.note(words)
        sock = listen(entrance.host, wishes.port, network=entrance.network)
        memory = open_memory(data_dir(), settings.cache, settings.serve, forget=forget)
        try:
            planned = _plan(path, plan, slots, adapters, console)
            if wishes.require_gpu:
                _check_gpu(planned)
            config, balance = _started_so(planned.engine_config, path, offline), _balance(planned, path, offline)

            def load() -> Engine:
                engine = open_engine(config, console, balance)
                if wishes.require_gpu:
                    _check_devices(engine)
                lists.wait()  # ready is who answers at once
                return engine

            options = _options(path, offline, config.adapters, entrance)
            code = _serve(path, options, load, memory, (entrance, sock), console)
        finally:
            sock.close()
            memory.close()
    raise typer.Exit(code)


def _forget(console: Console) -> None:
    """Erase, and say what there was."""
    from edgemed.core.settings import data_dir
    from edgemed.serve.memory import forget_all

    done = forget_all(data_dir())
    console.record(done)
    names = ", ".join(done.erased)
    console.note(f"Erased in {done.folder}: {names}." if names else f"There was nothing to erase in {done.folder}.")


def _serve(
    path: Path,
    options: ServeOptions,
    load: Callable[[], Engine],
    memory: Memory,
    way_in: tuple[Entrance, socket.socket],
    console: Console,
) -> int:
    """Load, serve until told to stop; the exit code."""
    from edgemed.demo.supported import checked_facts
    from edgemed.serve.app import create_app
    from edgemed.serve.entrance import connections_of
    from edgemed.serve.server import run
    from edgemed.serve.status import Serving

    entrance, sock = way_in
    port = sock.getsockname()[1]
    url, *_ = urls = entrance.urls(port)
    connections = connections_of(entrance)
    engine = load()
    try:
        app = create_app(
            engine,
            options,
            cache=memory.cache,
            journal=memory.journal,
            unfinished=memory.unfinished,
            facts=checked_facts,
        )
        serving = Serving(
            url=url,
            urls=tuple(urls),
            network=entrance.network,
            network_warning=entrance.warning,
            certificate_sha256=entrance.fingerprint,
            access_token_file=entrance.token.path if entrance.token else None,
            model=options.model_name,
            model_path=path,
            demo=bool(options.demo_notice),
            offline=options.offline,
            context_length=engine.info.context_length,
            n_slots=engine.info.n_slots,
            pid=os.getpid(),
        )

        def announce() -> None:
            app.prefixes.begin()
            console.record(serving)
            how = ", offline" if options.offline else ""
            how += f"; adapters {', '.join(options.adapters)}" if options.adapters else ""
            console.note(f"Ready: open {url} in a browser (model {options.model_name}{how}). Ctrl-C ends it.")
            if options.demo_notice:
                console.note(options.demo_notice)
            for words in entrance.last_words(port):
                console.note(words)

        return run(app, engine, sock, announce, connections)
    finally:
        engine.close()


def _go_offline() -> None:
    from edgemed.core.offline import forbid_outgoing_connections
    from edgemed.core.settings import OFFLINE_ENVIRONMENT, set_environment

    set_environment(OFFLINE_ENVIRONMENT)
    forbid_outgoing_connections()


def _model_path(model: str | None, plan: Path | None) -> Path:
    from edgemed.cli.models import resolve_model

    if model is not None or plan is None:
        return resolve_model(model)
    from edgemed.plan.store import load_plan

    return load_plan(plan).model.path


def _check_gpu(plan: Plan) -> None:
    """For --require-gpu, before the model is loaded."""
    from edgemed.core.errors import PlanInfeasible

    if not plan.engine_config.n_gpu_layers:
        raise PlanInfeasible(
            "--require-gpu was given, and the plan puts no layer on a GPU.",
            next_step="`edgemed plan MODEL --explain` says why; `edgemed profile` whether the engine sees the GPU",
        )


def _check_devices(engine: Engine) -> None:
    """For --require-gpu, when it is loaded: it may have begun on a lower rung. Later falls are shown, not forbidden."""
    from edgemed.core.errors import EngineFailed

    if not [device for device in engine.info.devices if device != "CPU"]:
        engine.close()
        reason = engine.health().reason
        raise EngineFailed(
            f"--require-gpu was given, and the engine holds no part of the model on a GPU. {reason}".rstrip(),
            next_step="`edgemed profile` says whether the engine sees the GPU; without --require-gpu it serves anyway",
        )


def _plan(
    path: Path, plan: Path | None, slots: int | None, adapters: tuple[AdapterFile, ...], console: Console
) -> Plan:
    """The plan of that file, else the one kept for this machine."""
    from edgemed.plan.make import check_adapters
    from edgemed.plan.store import load_plan, plan_for

    if plan is None:
        return plan_for(path, console, n_slots=slots, adapters=adapters)
    if slots is not None:
        raise UsageError("--slots and --plan exclude each other.", next_step="edgemed plan --slots N --save FILE")
    found = load_plan(plan)
    _check_file(plan, found.model.path, (found.model.n_bytes, found.model.modified_ns), path)
    if adapters and adapters != found.engine_config.adapters:
        raise UsageError(
            f"{plan} was made without these adapters, and their memory is not in it.",
            next_step=f"make it again: edgemed plan {path} --adapter NAME=FILE --save {plan}",
        )
    check_adapters(path, found.engine_config.adapters)
    return found


def _started_so(config: EngineConfig, path: Path, offline: bool) -> EngineConfig:
    return config.model_copy(update={"model_path": path, "offline": offline})


def _balance(plan: Plan, path: Path, offline: bool) -> Balance:
    """What the engine falls back to and is compared with, and who tells it what the machine has."""
    from edgemed.engines.balance import Balance
    from edgemed.engines.ladder import MachineState
    from edgemed.hardware.engine_devices import ask_engine
    from edgemed.hardware.memory import read_ram
    from edgemed.hardware.record import EngineProfile, value_of

    def machine() -> MachineState:
        total, free = (value_of(figure) for figure in read_ram())  # inside a container's limit, where there is one
        return MachineState(None if free is None else int(free), None if total is None else int(total))

    def devices() -> dict[str, int | None] | None:
        engine = ask_engine()
        if not isinstance(engine, EngineProfile):
            return None
        free = {device.name: value_of(device.memory_free) for device in engine.devices if device.kind != "cpu"}
        return {name: None if n_bytes is None else int(n_bytes) for name, n_bytes in free.items()}

    return Balance(
        ladder=tuple(_started_so(rung, path, offline) for rung in plan.ladder),
        planned_tokens_per_s=value_of(plan.tokens_per_s),
        machine=machine,
        devices=devices,
    )


def _check_file(plan: Path, planned: Path, state: tuple[int, int], path: Path) -> None:
    try:
        stat = path.stat()
    except OSError as error:
        raise UsageError(f"{path}, which {plan} was made for, cannot be read: {error.strerror}.") from error
    if (stat.st_size, stat.st_mtime_ns) != state:
        raise UsageError(
            f"{plan} was made for another file, or for an older state of it: {planned}.",
            next_step=f"make it again: edgemed plan {path} --save {plan}",
        )


def _state_of(path: Path) -> str:
    """A digest that changes with the file: its place, size and time. Reading gigabytes at every start would not do."""
    from edgemed.core.records import digest_of

    stat = path.stat()
    return digest_of({"path": str(path.resolve()), "n_bytes": stat.st_size, "modified_ns": stat.st_mtime_ns})


def _options(path: Path, offline: bool, adapters: tuple[AdapterFile, ...], entrance: Entrance) -> ServeOptions:
    from edgemed.core.settings import project_settings
    from edgemed.demo import DEMO_NAME, DEMO_NOTICE, is_demo
    from edgemed.models.adapter import file_digest
    from edgemed.serve.entrance import let_in
    from edgemed.serve.options import ServeOptions

    settings = project_settings()
    demo = is_demo(path)
    options = ServeOptions(
        model_name=DEMO_NAME if demo else path.stem,
        model_digest=_state_of(path),
        adapters={file.name: file_digest(file.path) for file in adapters},
        languages=settings.medical.languages,
        session_idle_s=settings.serve.session_minutes * 60.0,
        demo_notice=DEMO_NOTICE if demo else "",
        offline=offline,
    )
    return let_in(entrance, options)
