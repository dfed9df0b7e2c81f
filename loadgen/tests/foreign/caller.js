// A caller with @grpc/grpc-js, which loads the repository's .proto files at run time.
//
// Argument: a JSON file with the address, the folder of the .proto files, and the requests in protobuf's JSON. Prints one
// JSON object: what it was told.
'use strict';

const fs = require('fs');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const given = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const DEADLINE_MS = 60_000;

const definition = loader.loadSync(['app', 'alert', 'registry'].map(name => `clarion/v1/${name}.proto`), {
  includeDirs: [given.protos],
  keepCase: true,
  longs: String,
  enums: String,
});
const { AppService, AlertService, RegistryService } = grpc.loadPackageDefinition(definition).clarion.v1;
const [apps, alerts, registry] = [AppService, AlertService, RegistryService].map(
  Service => new Service(given.target, grpc.credentials.createInsecure())
);

// What google.rpc's public error_details.proto and status.proto say of what is read here.
const rpc = protobuf.parse(`syntax = "proto3"; package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message BadRequest { message FieldViolation { string field = 1; string description = 2; }
    repeated FieldViolation field_violations = 1; }
  message ResourceInfo { string resource_type = 1; string resource_name = 2; string owner = 3; string description = 4; }
`, { keepCase: true }).root;

// protobuf's JSON has times as text, protobufjs as seconds.
function request(json) {
  return JSON.parse(JSON.stringify(json), (key, value) =>
    /_time$|_until$/.test(key) ? { seconds: Math.floor(Date.parse(value) / 1000) } : value
  );
}

const deadline = () => ({ deadline: Date.now() + DEADLINE_MS });

function call(client, method, json) {
  return new Promise((resolve, reject) =>
    client[method](request(json), deadline(), (error, answer) => (error ? reject(error) : resolve(answer)))
  );
}

// The code of a refusal, and what its details say.
async function refused(client, method, json) {
  try {
    await call(client, method, json);
    return { code: 'OK' };
  } catch (error) {
    const told = { code: grpc.status[error.code] };
    for (const bytes of error.metadata.get('grpc-status-details-bin')) {
      for (const { type_url, value } of rpc.lookupType('google.rpc.Status').decode(bytes).details) {
        const type = type_url.split('/')[1];
        if (type === 'google.rpc.BadRequest' || type === 'google.rpc.ResourceInfo') {
          const known = rpc.lookupType(type);
          Object.assign(told, known.toObject(known.decode(value)));
        }
      }
    }
    return told;
  }
}

async function written(json) {
  const stream = registry.WriteDevices(deadline());
  stream.write(request(json));
  stream.end();
  const answers = [];
  for await (const answer of stream) answers.push(answer.written);
  return answers;
}

async function applied() {
  const giveUp = Date.now() + DEADLINE_MS;
  for (;;) {
    const stats = await call(registry, 'GetRegistryStats', {});
    if (stats.changes_applied === stats.changes_written) return;
    if (Date.now() > giveUp) throw new Error(`not applied: ${JSON.stringify(stats)}`);
    await new Promise(resolve => setTimeout(resolve, 20));
  }
}

const accepted = update => Number(update.progress?.outcomes?.accepted ?? 0);

async function main() {
  const verdict = {};
  verdict.app = (await call(apps, 'CreateApp', given.app)).name;
  verdict.bad = await refused(alerts, 'CreateAlert', given.bad);
  verdict.written = await written(given.devices);
  await applied();
  verdict.preview = Number((await call(alerts, 'PreviewAlert', { alert: given.whole.alert })).devices.exact);
  verdict.small = await refused(alerts, 'CreateAlert', given.small);

  let { name } = await call(alerts, 'CreateAlert', given.whole);
  verdict.again = (await call(alerts, 'CreateAlert', given.whole)).name === name;
  verdict.reused = await refused(alerts, 'CreateAlert', given.reused);
  let last;
  for await (last of alerts.WatchAlert({ name }, deadline()));
  verdict.whole = { state: last.state, accepted: accepted(last) };
  verdict.missing = await refused(alerts, 'GetAlert', { name: 'alerts/none' });

  ({ name } = await call(alerts, 'CreateAlert', given.slow));
  let answer;
  for await (last of alerts.WatchAlert({ name }, deadline())) {
    if (!answer && accepted(last) > 0) answer = await call(alerts, 'CancelAlert', { name, reason: 'found' });
  }
  verdict.cancelled = { answer: answer.state, state: last.state, accepted: accepted(last) };
  return verdict;
}

main().then(
  verdict => {
    console.log(JSON.stringify(verdict));
    [apps, alerts, registry].forEach(client => client.close());
  },
  error => {
    console.error(error);
    process.exit(1);
  }
);
