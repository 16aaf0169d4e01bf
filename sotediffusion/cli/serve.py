"""`sote serve`: a server in one command, and what belongs to one."""

import logging
import os
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotediffusion.cli.serve_data import check_no_password, data_folder, folder_asked, jobs_place, pictures_place
from sotediffusion.cli.serve_keys import config_option, data_option, keys
from sotediffusion.config import build, override, read_toml
from sotediffusion.types import UserError

if TYPE_CHECKING:
    from sotediffusion.serve.run import Settings

DAY = 24 * 3600.0


@click.group("serve", invoke_without_command=True)
@click.option("--model", "models", multiple=True, metavar="MODEL",
              help="A folder, a file, a downloaded hub id or `miniature`; may be given again, the first is drawn with where none "
                   "is named.  [miniature]")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; beyond this machine it needs keys, TLS.")
@click.option("--port", default=7860, show_default=True, type=click.IntRange(0, 65535))
@data_option
@click.option("--name", "names", multiple=True, metavar="HOST", help="A host name by which it is reached; may be given again.")
@click.option("--cors", "origins", multiple=True, metavar="ORIGIN", help="Another page that may use it, as https://host.")
@click.option("--behind-proxy", is_flag=True, help="A proxy on this machine speaks TLS and tells who calls.")
@click.option("--tls-self-signed", is_flag=True, help="Speak TLS with a certificate made here; its path is printed.")
@click.option("--tls-cert", type=click.Path(path_type=Path, exists=True), help="Speak TLS with this certificate, and")
@click.option("--tls-key", type=click.Path(path_type=Path, exists=True), help="this key.")
@click.option("--rating", type=click.Path(path_type=Path), metavar="DIR",
              help="A WD tagger (model.onnx, selected_tags.csv) to rate pictures by.")  # fmt: skip
@click.option("--webhooks", is_flag=True, help="Tell the end of a job to the public https address that its caller gave.")
@click.option("--webhook-host", "webhook_hosts", multiple=True, metavar="HOST[:PORT]",
              help="A receiver that may be private and without TLS.")  # fmt: skip
@click.option("--source", default="", metavar="URL", help="Where a model of your own can be had, for those who use it.")
@click.option("--public-licence-acknowledged", is_flag=True,
              help="You have the right to serve a model to others whose licence forbids it.")  # fmt: skip
@click.option("--device", help="cpu, cuda, cuda:1.  [cuda where there is one]")
@click.option("--dtype", help="float32, bfloat16 or float16.  [float32 on a CPU, else bfloat16]")
@click.option("--ray", metavar="ADDRESS",
              help="Draw on a Ray cluster's GPUs, as many as the queue needs. Jobs then lie in PostgreSQL.")  # fmt: skip
@click.option("--no-worker", is_flag=True, help="Draw nothing here; servers that share the jobs do.")
@click.option("--keep-days", default=7.0, show_default=True, type=click.FloatRange(0, min_open=True),
              help="How long finished jobs are kept; favourites stay.")  # fmt: skip
@config_option
@click.option("-s", "sets", multiple=True, metavar="KEY=VALUE", help="Any other setting, e.g. -s limits.queued=50.")
@click.pass_context
def group(context: click.Context, config: Path | None, sets: tuple[str, ...], **options: Any) -> None:
    """Serve models: a queue, a web page and the APIs of fal, OpenAI and A1111.

    \b
    sote serve                                   the embedded model, on http://127.0.0.1:7860
    sote serve --model Disty0/sotediffusion-wuerstchen3-decoder
    sote serve keys add ann                      a key, which others than this machine need
    sote serve --host 0.0.0.0 --tls-self-signed

    Jobs lie in the database SOTE_JOBS and pictures in SOTE_PICTURES where these are set, else in the folder of --data.
    """
    given = {name for name in options if context.get_parameter_source(name) != click.core.ParameterSource.DEFAULT}
    if context.invoked_subcommand is not None:
        if given or config or sets:
            raise UserError("keys", "options before it are those of a server; give --data or --config behind `keys add`")
        return
    check_no_password(sets)
    _serve(_settings(options, given, {} if config is None else read_toml(config), sets))


group.add_command(keys)


def _settings(options: dict[str, Any], given: set[str], table: dict[str, Any], sets: tuple[str, ...]) -> "Settings":
    from sotediffusion.serve.run import Settings

    data = folder_asked(options.pop("data"), table)
    folder = data_folder(data)
    tls = _tls(options, folder)
    worker = {name: value for name in ("device", "dtype") if (value := options.pop(name)) is not None}
    options["worker_here"], options["ray"] = not options.pop("no_worker"), options["ray"] or ""
    values = {
        "data": folder, "jobs": jobs_place(data, table), "shelf": pictures_place(data), "tls": tls,
        "page": _presets("serve")["page"], "presets": _presets("generate"), "retention_s": options.pop("keep_days") * DAY,
        "licence_acknowledged": options.pop("public_licence_acknowledged"), **options,
    }  # fmt: skip
    flags = {"keep_days": "retention_s", "public_licence_acknowledged": "licence_acknowledged",
             "no_worker": "worker_here"}  # fmt: skip
    said = {flags.get(name, name) for name in given}
    merged = {**values, **{key: value for key, value in table.items() if key not in said and key != "data"}}
    merged["worker"] = {**table.get("worker", {}), **worker}
    merged["models"] = list(merged["models"]) or ["miniature"]
    return build(Settings, override(merged, sets))


def _tls(options: dict[str, Any], folder: Path) -> tuple[Path, Path] | None:
    own, certificate, key = (options.pop(name) for name in ("tls_self_signed", "tls_cert", "tls_key"))
    if (certificate is None) != (key is None):
        raise UserError("tls-cert", "a certificate and its key go together; give both --tls-cert and --tls-key")
    if certificate is not None and key is not None:
        return certificate, key
    if not own:
        return None
    from sotediffusion.serve.walls.certificates import self_signed

    made = self_signed(folder / "tls", [name for name in (options["host"], *options["names"]) if name not in ("0.0.0.0", "::")])
    click.echo(f"note: clients trust this server by SSL_CERT_FILE={made[0]}", err=True)
    return made


def _presets(folder: str) -> dict[str, Any]:
    found = sorted(Path(str(files("sotediffusion"))).glob(f"presets/{folder}/*.toml"))
    return {path.stem: read_toml(path) for path in found}


def _serve(settings: "Settings") -> None:
    from sotediffusion.serve.run import open_server, run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("uvicorn.error", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if settings.ray:
        os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it when it is imported; without a token it then connects to nothing
    server = open_server(settings)
    for note in server.notes:
        logging.getLogger("sotediffusion.serve").warning("%s", note)
    run(server, lambda url: click.echo(f"serving {', '.join(server.house.gateway.menu.models)} at {url}"))
