// Subscribes, publishes at each QoS, and resolves to what it heard.
async function scenario(mqtt, url, protocolVersion) {
  const client = mqtt.connect(url, { protocolVersion, reconnectPeriod: 0, connectTimeout: 15000 });
  const topic = `js/${protocolVersion}/${Math.random()}`;
  const heard = [];
  const all = new Promise((resolve, reject) => {
    client.on('message', (_, payload) => {
      heard.push(payload.toString());
      if (heard.length === 3) resolve();
    });
    client.on('error', reject);
    client.on('close', () => reject(new Error('closed')));
  });
  await client.subscribeAsync(topic, { qos: 2 });
  await client.publishAsync(topic, 'zero', { qos: 0 });
  await client.publishAsync(topic, 'one', { qos: 1 });
  await client.publishAsync(topic, 'two', { qos: 2 });
  await all;
  client.removeAllListeners('close');
  await client.endAsync();
  return heard.join(' ');
}
