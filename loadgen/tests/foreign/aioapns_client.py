"""aioapns (on the Python package h2) against the gateway emulator.

Argument: a JSON file that says where and with what. Prints one JSON object: what the client was told.
"""

import asyncio
import json
import ssl
import sys
import time
import types

import aioapns
import aioapns.connection

GIVEN = json.load(open(sys.argv[1]))


class Local(aioapns.connection.APNsTLSClientProtocol):
    """Aims the client at the emulator."""

    APNS_SERVER = "localhost"
    APNS_PORT = GIVEN["port"]


def client(key_id=GIVEN["key_id"]):
    context = ssl.create_default_context(cafile=GIVEN["ca_file"])
    # The client leaves it out; Apple's servers assume it, others refuse a client that names no protocol.
    context.set_alpn_protocols(["h2"])
    apns = aioapns.APNs(
        key=open(GIVEN["key_file"]).read(),
        key_id=key_id,
        team_id=GIVEN["team_id"],
        topic=GIVEN["topic"],
        max_connections=1,
        ssl_context=context,
    )
    apns.pool.protocol_class = Local
    return apns


async def send(apns, token, apns_id=None):
    request = aioapns.NotificationRequest(
        device_token=token,
        message={"aps": {"alert": {"title": "Missing child", "body": "Last seen at the station."}}},
        notification_id=apns_id,
        time_to_live=3600,
        priority=10,
        collapse_key="case-1",
        push_type=aioapns.PushType.ALERT,
    )
    result = await apns.send_notification(request)
    if result.is_successful:
        return {"status": int(result.status), "apns_id": result.notification_id}
    return {"status": int(result.status), "reason": result.description, "timestamp": result.timestamp}


async def main():
    verdict = {}
    apns = client()
    verdict["good"] = await send(apns, GIVEN["good"], GIVEN["apns_id"])
    verdict["dead"] = await send(apns, GIVEN["dead"])
    verdict["bad"] = await send(apns, GIVEN["bad"])
    # Several thousand at once over the one connection.
    answers = await asyncio.gather(*(send(apns, token) for token in GIVEN["many"]))
    accepted = sum(answer["status"] == 200 for answer in answers)
    verdict["many"] = {"accepted": accepted, "failed": len(answers) - accepted}
    apns.pool.close()

    # A clock two hours behind signs a token that is too old. This client does not sign anew by itself.
    real = aioapns.connection.time
    aioapns.connection.time = types.SimpleNamespace(time=lambda: time.time() - 7_200)
    late = client()
    verdict["late"] = await send(late, GIVEN["late"])
    late.pool.close()
    aioapns.connection.time = real

    stranger = client(GIVEN["unknown_key_id"])
    verdict["stranger"] = await send(stranger, GIVEN["good"])
    stranger.pool.close()
    return verdict


print(json.dumps(asyncio.run(main())))
