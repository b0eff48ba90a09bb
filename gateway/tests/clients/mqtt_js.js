// What device and web developers do first with MQTT.js. Usage: mqtt_js.js PORT [SCHEME]
"use strict";

const assert = require("node:assert");
const { once } = require("node:events");
const mqtt = require("mqtt");

const [port, scheme = "mqtt"] = process.argv.slice(2);
// A certificate is for a name.
const host = scheme === "mqtts" || scheme === "wss" ? "localhost" : "127.0.0.1";
const url = `${scheme}://${host}:${port}`;
const PATIENCE_MS = 60_000;

/** Messages that arrive, in order, and a way to wait for so many. */
async function connect(protocolVersion, options = {}) {
    const client = mqtt.connect(url, { protocolVersion, reconnectPeriod: 0, ...options });
    client.arrived = [];
    client.on("message", (topic, payload, packet) => {
        client.arrived.push({ topic, text: payload.toString(), packet });
        client.emit("arrived");
    });
    client.on("error", (error) => { throw error; });
    const [connack] = await once(client, "connect");
    return Object.assign(client, { connack });
}

async function messages(client, count) {
    while (client.arrived.length < count) {
        await once(client, "arrived", { signal: AbortSignal.timeout(PATIENCE_MS) });
    }
    return client.arrived.splice(0, count);
}

const scenarios = {
    async everyQosArrives(version) {
        const client = await connect(version);
        await client.subscribeAsync(`js/${version}/+`, { qos: 2 });
        for (const qos of [0, 1, 2]) {
            await client.publishAsync(`js/${version}/${qos}`, "hello", { qos });
        }
        const found = (await messages(client, 3)).map((m) => `${m.topic} ${m.packet.qos}`).sort();
        assert.deepStrictEqual(found, [0, 1, 2].map((qos) => `js/${version}/${qos} ${qos}`));
        await client.endAsync();
    },

    async retainedIsKeptUntilDeleted(version) {
        const topic = `js/retained/${version}`;
        const client = await connect(version);
        await client.publishAsync(topic, "kept", { qos: 1, retain: true });
        await client.subscribeAsync(topic, { qos: 1 });
        const [message] = await messages(client, 1);
        assert.ok(message.packet.retain);
        await client.publishAsync(topic, "", { qos: 1, retain: true });
        await client.endAsync();
    },

    async willIsPublishedWhenTheSocketBreaks(version) {
        const watcher = await connect(version);
        await watcher.subscribeAsync(`js/will/${version}`, { qos: 1 });
        const will = { topic: `js/will/${version}`, payload: Buffer.from("gone"), qos: 1 };
        const mortal = await connect(version, { will });
        mortal.stream.destroy();
        assert.strictEqual((await messages(watcher, 1))[0].text, "gone");
        await watcher.endAsync();
    },

    async offlineMessagesWait(version) {
        const options = { clientId: `js-sleeper-${version}`, clean: false };
        if (version === 5) options.properties = { sessionExpiryInterval: 3600 };
        const first = await connect(version, options);
        await first.subscribeAsync(`js/offline/${version}`, { qos: 2 });
        await first.endAsync();
        const publisher = await connect(version);
        for (const qos of [1, 2]) {
            await publisher.publishAsync(`js/offline/${version}`, `qos ${qos}`, { qos });
        }
        await publisher.endAsync();
        const second = await connect(version, options);
        assert.ok(second.connack.sessionPresent);
        const found = (await messages(second, 2)).map((m) => m.text).sort();
        assert.deepStrictEqual(found, ["qos 1", "qos 2"]);
        await second.endAsync();
    },

    async propertiesPass(version) {
        if (version !== 5) return;
        const client = await connect(version, { properties: { topicAliasMaximum: 10 } });
        const topic = "js/properties";
        await client.subscribeAsync(topic, { qos: 1, properties: { subscriptionIdentifier: 7 } });
        const properties = {
            responseTopic: "js/answers", correlationData: Buffer.from([1, 2]),
            userProperties: { colour: ["red", "green"] }, contentType: "text/plain",
            messageExpiryInterval: 100, payloadFormatIndicator: true, topicAlias: 3,
        };
        await client.publishAsync(topic, "full", { qos: 1, properties });
        const [{ packet }] = await messages(client, 1);
        const found = packet.properties;
        for (const name of ["responseTopic", "contentType", "payloadFormatIndicator"]) {
            assert.strictEqual(found[name], properties[name], name);
        }
        assert.deepStrictEqual(found.correlationData, properties.correlationData);
        assert.deepStrictEqual({ ...found.userProperties }, properties.userProperties);
        assert.ok(found.messageExpiryInterval <= 100);
        assert.strictEqual(found.subscriptionIdentifier, 7);
        await client.endAsync();
    },
};

async function main() {
    for (const version of [4, 5]) {
        for (const [name, scenario] of Object.entries(scenarios)) {
            await scenario(version);
            console.log("ok", version, name);
        }
    }
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
