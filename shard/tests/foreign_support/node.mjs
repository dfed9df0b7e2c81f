// A gateway on node's http2 (nghttp2 inside). Arguments: certificate, key, log, and "shrink" to change the stream limit in
// flight. Says its port on standard output; answers by the last digit of the path; logs each answer; SIGTERM ends it.
import http2 from 'node:http2';
import fs from 'node:fs';

const [cert, key, log, shrink] = process.argv.slice(2);
const LIMITS = [200, 3, 100, 1, 50, 10];
let lines = [];
const flush = () => {
  if (lines.length) fs.appendFileSync(log, lines.join(''));
  lines = [];
};

const server = http2.createSecureServer({
  cert: fs.readFileSync(cert),
  key: fs.readFileSync(key),
  settings: { maxConcurrentStreams: LIMITS[0], enablePush: false },
});
let connections = 0;
server.on('session', (session) => {
  const connection = ++connections;
  let answered = 0;
  session.on('error', () => {});
  session.on('stream', (stream, headers) => {
    stream.on('error', () => {});
    stream.resume();
    stream.on('end', () => {
      if (stream.destroyed) return;
      const path = headers[':path'];
      const say = (status, body, more = {}) => {
        lines.push(`${path} ${status} ${connection}\n`);
        if (lines.length >= 1000) flush();
        stream.respond({ ':status': status, 'apns-id': 'EC1BF194-B3B2-424A-89A9-5A918A6E6B5D', ...more }, { endStream: !body });
        if (body) stream.end(body);
      };
      switch (path.at(-1)) {
        case '4': return say(410, '{"reason":"Unregistered","timestamp":1700000000123}', { 'content-type': 'application/json' });
        case '5': return say(400, '{"reason":"BadDeviceToken"}');
        case '6': return say(503, '<html>later</html>', { 'retry-after': '30' });
        case '7': return stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
        case '8': return stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR);
        case '9': return say(200, 'a body where none is due');
        default: say(200);
      }
      if (shrink && ++answered % 100 === 0) {
        session.settings({ maxConcurrentStreams: LIMITS[(answered / 100) % LIMITS.length] });
      }
    });
  });
});
process.on('SIGTERM', () => {
  flush();
  process.exit(0);
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
