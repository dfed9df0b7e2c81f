// @parse/node-apn (on Node's HTTP/2, nghttp2) against the gateway emulator.
//
// Argument: a JSON file that says where and with what. Prints one JSON object: what the client was told.
'use strict';

const fs = require('fs');
const apn = require('@parse/node-apn');

const given = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const realNow = Date.now;

function provider(keyId = given.key_id) {
  return new apn.Provider({
    token: { key: given.key_file, keyId, teamId: given.team_id },
    address: 'localhost',
    port: given.port,
    ca: fs.readFileSync(given.ca_file),
  });
}

function notification() {
  const note = new apn.Notification();
  note.topic = given.topic;
  note.pushType = 'alert';
  note.priority = 10;
  note.expiry = Math.floor(realNow() / 1000) + 3600;
  note.collapseId = 'case-1';
  note.alert = { title: 'Missing child', body: 'Last seen at the station.' };
  note.sound = 'default';
  return note;
}

// Of one push: status 200 and the apns-id, or the gateway's own words.
function told({ sent, failed }) {
  if (sent.length === 1 && failed.length === 0) return { status: 200, apns_id: sent[0]['apns-id'] };
  const { status, response, error } = failed[0];
  return { status, reason: response?.reason ?? error?.message, timestamp: response?.timestamp };
}

async function main() {
  const client = provider();
  const one = async token => told(await client.send(notification(), token));
  const verdict = {};
  const named = notification();
  named.id = given.apns_id;
  verdict.good = told(await client.send(named, given.good));
  verdict.dead = await one(given.dead);
  verdict.bad = await one(given.bad);

  // Several thousand at once over the one connection.
  const { sent, failed } = await client.send(notification(), given.many);
  verdict.many = { accepted: sent.length, failed: failed.length };
  await client.shutdown();

  // A clock two hours behind signs a token that is too old; told so, the client signs anew, and by then the clock is right.
  Date.now = () => realNow() - 7_200_000;
  const late = provider();
  const sending = late.send(notification(), given.late);
  // It signs at its first request, within the first turn after connecting: put right when the gateway has answered.
  const regenerate = late.client.config.token.regenerate;
  late.client.config.token.regenerate = function (generation) {
    Date.now = realNow;
    return regenerate.call(this, generation);
  };
  verdict.late = told(await sending);
  Date.now = realNow;
  await late.shutdown();

  const stranger = provider(given.unknown_key_id);
  verdict.stranger = told(await stranger.send(notification(), given.good));
  await stranger.shutdown();
  return verdict;
}

main().then(
  verdict => console.log(JSON.stringify(verdict)),
  error => {
    console.error(error);
    process.exitCode = 1;
  }
);
