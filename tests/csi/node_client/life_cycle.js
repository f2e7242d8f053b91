// The life cycle of one volume, from grpc-js: create, publish, stats, unpublish, delete, and two refusals.
// node life_cycle.js ENDPOINT PROTO_FILE JSON     (JSON: url, endpointUrl, secrets, target)
// Prints what the driver answered as one JSON object; anything unexpected is an exception.
'use strict';
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const fs = require('fs');

const [endpoint, protoFile, text] = process.argv.slice(2);
const asked = JSON.parse(text);
const definition = loader.loadSync(protoFile, { keepCase: true, longs: Number, enums: String, defaults: true });
const csi = grpc.loadPackageDefinition(definition).csi.v1;
const credentials = grpc.credentials.createInsecure();
const clients = {
  Identity: new csi.Identity(endpoint, credentials),
  Controller: new csi.Controller(endpoint, credentials),
  Node: new csi.Node(endpoint, credentials),
};

function call(service, method, request) {
  return new Promise((resolve, reject) => {
    const deadline = new Date(Date.now() + 120000);
    clients[service][method](request, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

async function codeOf(service, method, request) {
  try {
    await call(service, method, request);
  } catch (error) {
    return grpc.status[error.code];
  }
  return 'OK';
}

async function main() {
  const found = {};
  found.driver = (await call('Identity', 'GetPluginInfo', {})).name;
  found.ready = (await call('Identity', 'Probe', {})).ready.value;
  found.node = (await call('Node', 'NodeGetInfo', {})).node_id;
  const capability = { mount: {}, access_mode: { mode: 'MULTI_NODE_MULTI_WRITER' } };
  const created = await call('Controller', 'CreateVolume', {
    name: 'from-node',
    capacity_range: { required_bytes: 1 << 30 },
    volume_capabilities: [capability],
    parameters: { type: 'shared', url: asked.url, endpointUrl: asked.endpointUrl },
    secrets: asked.secrets,
  });
  const { volume_id, volume_context, capacity_bytes } = created.volume;
  found.volume_id = volume_id;
  found.capacity_bytes = capacity_bytes;
  const publication = {
    volume_id, volume_context, volume_capability: capability, target_path: asked.target, secrets: asked.secrets,
  };
  for (let i = 0; i < 10; i++) await call('Node', 'NodePublishVolume', publication);
  fs.writeFileSync(asked.target + '/from-node', 'written by node');
  found.read = fs.readFileSync(asked.target + '/from-node', 'utf8');
  const stats = await call('Node', 'NodeGetVolumeStats', { volume_id, volume_path: asked.target });
  found.total = stats.usage.find((one) => one.unit === 'BYTES').total;
  const listed = await call('Controller', 'ListVolumes', {});
  found.listed = listed.entries.map((entry) => entry.volume.volume_id).includes(volume_id);
  for (let i = 0; i < 2; i++) {
    await call('Node', 'NodeUnpublishVolume', { volume_id, target_path: asked.target });
  }
  found.target_exists = fs.existsSync(asked.target);
  for (let i = 0; i < 2; i++) await call('Controller', 'DeleteVolume', { volume_id, secrets: asked.secrets });
  found.without_capability = await codeOf('Node', 'NodePublishVolume', { ...publication, volume_capability: undefined });
  found.of_the_deleted = await codeOf('Node', 'NodePublishVolume', publication);
  process.stdout.write(JSON.stringify(found) + '\n');
}

main().then(
  () => process.exit(0),
  (error) => {
    process.stderr.write(String(error.stack || error) + '\n');
    process.exit(1);
  },
);
