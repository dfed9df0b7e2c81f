"""A caller with grpcio that has no generated code: it learns the API by server reflection.

Argument: a JSON file with the address and the requests in protobuf's JSON. Prints one JSON object: what it was told.
"""

import json
import sys
import time

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

GIVEN = json.load(open(sys.argv[1]))
DEADLINE = 60

# Every request is compressed, and the library retries what a server postpones: its own backoff would
# give up within 20 ms, so a retry that succeeds has waited as long as the server said.
POLICY = {
    "maxAttempts": 2,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.01s",
    "backoffMultiplier": 1,
    "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
}
channel = grpc.insecure_channel(
    GIVEN["target"],
    compression=grpc.Compression.Gzip,
    options=[
        (
            "grpc.service_config",
            json.dumps({"methodConfig": [{"name": [{"service": "clarion.v1.AppService"}], "retryPolicy": POLICY}]}),
        )
    ],
)
reflected = ProtoReflectionDescriptorDatabase(channel)
pool = descriptor_pool.DescriptorPool(reflected)


def call(method, request):
    """Calls a method by its full name; gives one answer, or an iterator of answers."""
    service, name = method.rsplit("/", 1)
    described = pool.FindServiceByName(service).FindMethodByName(name)
    request_class = message_factory.GetMessageClass(described.input_type)
    answer_class = message_factory.GetMessageClass(described.output_type)
    shape = ("stream" if described.client_streaming else "unary") + (
        "_stream" if described.server_streaming else "_unary"
    )
    stub = getattr(channel, shape)(f"/{method}", request_class.SerializeToString, answer_class.FromString)
    message = json_format.ParseDict(request, request_class())
    answers = stub(iter([message]) if described.client_streaming else message, timeout=DEADLINE)
    read = lambda answer: json_format.MessageToDict(answer, preserving_proto_field_name=True)
    return map(read, answers) if described.server_streaming else read(answers)


def refused(method, request):
    """The code of a refusal, and what its details say."""
    try:
        call(method, request)
    except grpc.RpcError as error:
        told = {"code": error.code().name}
        status = rpc_status.from_call(error)
        for detail in status.details if status else []:
            # Details, too, are described by reflection.
            described = pool.FindMessageTypeByName(detail.type_url.rsplit("/", 1)[1])
            known = message_factory.GetMessageClass(described)()
            assert detail.Unpack(known)
            told.update(json_format.MessageToDict(known, preserving_proto_field_name=True))
        return told
    return {"code": "OK"}


def postponed():
    """Changes an app more often than the server allows, until a change was postponed; gives the longest wait."""
    longest = 0
    for n in range(150):
        begun = time.monotonic()
        app = {"name": "apps/" + GIVEN["app"]["app_id"], "display_name": f"change {n}"}
        call("clarion.v1.AppService/UpdateApp", {"app": app, "update_mask": "displayName"})
        longest = max(longest, time.monotonic() - begun)
        if longest > 0.5:
            break
    return longest


def accepted(progress):
    return int(progress.get("progress", {}).get("outcomes", {}).get("accepted", 0))


def main():
    verdict = {"services": sorted(s for s in reflected.get_services() if s.startswith("clarion."))}
    verdict["app"] = call("clarion.v1.AppService/CreateApp", GIVEN["app"])["name"]
    verdict["bad"] = refused("clarion.v1.AlertService/CreateAlert", GIVEN["bad"])
    verdict["written"] = [a["written"] for a in call("clarion.v1.RegistryService/WriteDevices", GIVEN["devices"])]

    give_up = time.monotonic() + DEADLINE
    while (stats := call("clarion.v1.RegistryService/GetRegistryStats", {})).get("changes_applied") != stats[
        "changes_written"
    ]:
        assert time.monotonic() < give_up, f"not applied: {stats}"
        time.sleep(0.02)
    preview = call("clarion.v1.AlertService/PreviewAlert", {"alert": GIVEN["whole"]["alert"]})
    verdict["preview"] = int(preview["devices"]["exact"])
    verdict["small"] = refused("clarion.v1.AlertService/CreateAlert", GIVEN["small"])

    name = call("clarion.v1.AlertService/CreateAlert", GIVEN["whole"])["name"]
    verdict["again"] = call("clarion.v1.AlertService/CreateAlert", GIVEN["whole"])["name"] == name
    verdict["reused"] = refused("clarion.v1.AlertService/CreateAlert", GIVEN["reused"])
    *_, last = call("clarion.v1.AlertService/WatchAlert", {"name": name})
    verdict["whole"] = {"state": last["state"], "accepted": accepted(last)}
    verdict["missing"] = refused("clarion.v1.AlertService/GetAlert", {"name": "alerts/none"})

    name = call("clarion.v1.AlertService/CreateAlert", GIVEN["slow"])["name"]
    answer = None
    for progress in call("clarion.v1.AlertService/WatchAlert", {"name": name}):
        last = progress
        if answer is None and accepted(progress) > 0:
            answer = call("clarion.v1.AlertService/CancelAlert", {"name": name, "reason": "found"})
    verdict["cancelled"] = {"answer": answer["state"], "state": last["state"], "accepted": accepted(last)}
    verdict["postponed"] = postponed()
    return verdict


print(json.dumps(main()))
