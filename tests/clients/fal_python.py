"""What a user of fal-client does, against the server that its environment names; prints what came back as JSON."""

import json
import sys

import fal_client

APP = "fal-ai/stable-cascade/sote-diffusion"
SMALL = {
    "prompt": "1girl, cat ears", "image_size": {"width": 128, "height": 128}, "seed": 5,
    "first_stage_steps": 4, "second_stage_steps": 4,
}  # fmt: skip
SEEN = SMALL | {"first_stage_steps": 50}  # long enough that a busy machine sees it drawn
LONG = SMALL | {"num_images": 4, "first_stage_steps": 50, "second_stage_steps": 24}


def failing(call):
    try:
        call()
    except fal_client.FalClientHTTPError as error:
        return {"status": error.status_code, "type": error.error_type}
    return None


def main():
    told = {"run": fal_client.run(APP, SMALL)}
    told["plain"] = fal_client.run("fal-ai/stable-cascade", SMALL)["seed"]

    handle = fal_client.submit(APP, SMALL | {"sync_mode": True}, priority="low", start_timeout=600)
    told["submit"] = {"id": handle.request_id, "seed": handle.get()["seed"]}
    told["events"] = [type(event).__name__ for event in handle.iter_events(with_logs=True)]

    states = []
    result = fal_client.subscribe(APP, SMALL, with_logs=True, on_queue_update=lambda one: states.append(type(one).__name__))
    told["subscribe"] = {"seed": result["seed"], "states": sorted(set(states))}

    told["stream"] = [event.get("status", "output") for event in fal_client.stream(APP, SEEN)]

    handle = fal_client.submit(APP, LONG)
    told["before"] = type(handle.status()).__name__
    handle.cancel()
    told["after"] = type(handle.status()).__name__
    told["cancelled"] = failing(handle.get)

    told["invalid"] = failing(lambda: fal_client.run(APP, SMALL | {"guidance_scale": 21}))
    told["webhook"] = failing(lambda: fal_client.submit(APP, SMALL, webhook_url="https://example.com/hook"))
    sys.stdout.write(json.dumps(told))


main()
