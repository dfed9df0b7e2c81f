"""firebase-admin (google-auth for OAuth, httpx for HTTP/2) against the gateway emulator.

Argument: a JSON file that says where and with what; the CA comes by environment. Prints one JSON object: what the client
was told.
"""

import asyncio
import json
import sys

import firebase_admin
from firebase_admin import credentials, messaging

GIVEN = json.load(open(sys.argv[1]))

# The one thing that it has no setting for.
messaging._MessagingService.FCM_URL = f"https://localhost:{GIVEN['port']}/v1/projects/{{0}}/messages:send"


def message(token):
    return messaging.Message(
        token=token,
        notification=messaging.Notification(title="Missing child", body="Last seen at the station."),
        data={"case": "1"},
        android=messaging.AndroidConfig(priority="high", ttl=3600, collapse_key="case-1"),
    )


def told(response):
    """Of one message: its name, or which of the client's errors it was and the HTTP status behind it."""
    if response.success:
        return {"name": response.message_id}
    error = response.exception
    status = error.http_response.status_code if getattr(error, "http_response", None) is not None else None
    return {"error": type(error).__name__, "code": getattr(error, "code", None), "status": status}


async def main():
    verdict = {}
    app = firebase_admin.initialize_app(credentials.Certificate(GIVEN["service_account"]), name="own")
    names = ["good", "dead", "mismatch", "throttled", "busy"]
    one = await messaging.send_each_async([message(GIVEN[name]) for name in names], app=app)
    verdict.update(zip(names, map(told, one.responses)))
    verdict["dry"] = told((await messaging.send_each_async([message(GIVEN["dry"])], dry_run=True, app=app)).responses[0])

    # Several thousand over one client, as many at once as it allows.
    many = GIVEN["many"]
    batches = [
        await messaging.send_each_async([message(token) for token in many[at : at + 500]], app=app)
        for at in range(0, len(many), 500)
    ]
    verdict["many"] = {
        "accepted": sum(batch.success_count for batch in batches),
        "failed": sum(batch.failure_count for batch in batches),
    }

    # Somebody whom Google does not know.
    account = json.load(open(GIVEN["service_account"])) | {"client_email": "nobody@nowhere.iam.gserviceaccount.com"}
    other = firebase_admin.initialize_app(credentials.Certificate(account), name="other")
    try:
        verdict["stranger"] = told((await messaging.send_each_async([message(GIVEN["good"])], app=other)).responses[0])
    except Exception as error:
        verdict["stranger"] = {"error": type(error).__name__, "words": str(error)}
    return verdict


print(json.dumps(asyncio.run(main())))
