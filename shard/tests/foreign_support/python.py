"""A gateway on python's h2. Arguments: certificate, key, log. Says its port on standard output; answers by the last digit
of the path; logs each answer; SIGTERM ends it."""

import asyncio
import signal
import ssl
import sys

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

CERTIFICATE, KEY, LOG = sys.argv[1:4]
APNS_ID = ("apns-id", "EC1BF194-B3B2-424A-89A9-5A918A6E6B5D")
connections = 0


class Peer(asyncio.Protocol):
    def connection_made(self, transport):
        global connections
        connections += 1
        self.number = connections
        self.transport = transport
        self.paths = {}
        config = h2.config.H2Configuration(client_side=False, header_encoding="ascii")
        self.h2 = h2.connection.H2Connection(config)
        self.h2.local_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 100
        self.h2.initiate_connection()
        self.flush()

    def flush(self):
        self.transport.write(self.h2.data_to_send())

    def data_received(self, data):
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            print("the client broke HTTP/2:", error, file=sys.stderr, flush=True)
            self.flush()
            self.transport.close()
            return
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                self.paths[event.stream_id] = dict(event.headers)[":path"]
            elif isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self.paths.pop(event.stream_id, None)
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.transport.close()
                return
            if isinstance(event, h2.events.StreamEnded):
                self.answer(event.stream_id)
        self.flush()

    def answer(self, stream):
        path = self.paths.pop(stream)
        codes = {"7": h2.errors.ErrorCodes.REFUSED_STREAM, "8": h2.errors.ErrorCodes.INTERNAL_ERROR}
        if path[-1] in codes:
            self.h2.reset_stream(stream, codes[path[-1]])
            return
        status, body, more = {
            "4": ("410", b'{"reason":"Unregistered","timestamp":1700000000123}', []),
            "5": ("400", b'{"reason":"BadDeviceToken"}', []),
            "6": ("503", b"<html>later</html>", [("retry-after", "30")]),
            "9": ("200", b"a body where none is due", []),
        }.get(path[-1], ("200", b"", []))
        log.write(f"{path} {status} {self.number}\n")
        self.h2.send_headers(stream, [(":status", status), APNS_ID, *more], end_stream=not body)
        if body:
            self.h2.send_data(stream, body[:10])
            self.h2.send_data(stream, body[10:], end_stream=True)


async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    context.set_alpn_protocols(["h2"])
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    server = await loop.create_server(Peer, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()


with open(LOG, "w", encoding="ascii") as log:
    asyncio.run(main())
