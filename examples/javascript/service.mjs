// The connection to the service: requests with their answers, events with their confirms.

import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import amqplib from 'amqplib';

const REPLY_TO = 'amq.rabbitmq.reply-to';
const RECONNECT_PAUSE_MS = 200;
const CONFIRM_TIMEOUT_MS = 30_000;

/** Nobody has answered in time, or the connection is lost: nobody knows. It never means that a claim is free. */
export class NoAnswer extends Error {}

/** The service has answered with an error. `code` and `retryable` are those of the contract. */
export class Refused extends Error {
  constructor(error) {
    super(`${error.code}: ${error.message}`);
    this.code = error.code;
    this.retryable = error.retryable;
  }
}

/** One connection to RabbitMQ, made when it is needed, and anew after a loss. */
export class Service {
  #url;
  #link = null;

  constructor(url) {
    this.#url = url;
  }

  /** The result of a request. Throws NoAnswer after `timeoutMs`, and Refused. */
  async ask(operation, request, timeoutMs) {
    const late = pause(timeoutMs, 'late', { ref: false });
    const link = await Promise.race([this.#linked(timeoutMs), late]);
    if (link === 'late') throw new NoAnswer(`${operation}: there is no connection`);
    const correlationId = randomUUID();
    const answered = new Promise((resolve) => link.waiting.set(correlationId, resolve));
    link.requests.publish('export-runs.rpc', operation, Buffer.from(JSON.stringify(request)), {
      correlationId,
      replyTo: REPLY_TO,
      messageId: randomUUID(),
      contentType: 'application/json',
      expiration: String(timeoutMs),
    });
    const reply = await Promise.race([answered, link.lost, late]);
    link.waiting.delete(correlationId);
    if (reply === 'late' || reply === 'lost') throw new NoAnswer(`${operation}: no answer`);
    if (!reply.ok) throw new Refused(reply.error);
    return reply.result;
  }

  /** Publish an event. It returns when RabbitMQ has confirmed it, and publishes the same event again until then. */
  async publish(type, event) {
    const endMs = Date.now() + CONFIRM_TIMEOUT_MS;
    while (Date.now() < endMs) {
      const link = await this.#linked(endMs - Date.now());
      const outcome = link && (await Promise.race([this.#published(link, type, event), link.lost]));
      if (outcome === 'confirmed') return;
      await pause(RECONNECT_PAUSE_MS);
    }
    throw new NoAnswer(`${type}: not confirmed`);
  }

  async close() {
    const link = this.#link;
    this.#link = null;
    if (link) await link.connection.close();
  }

  #published(link, type, event) {
    const options = {
      type,
      persistent: true,
      mandatory: true,
      messageId: randomUUID(), // of this attempt; the event has its own eventId
      contentType: 'application/json',
      headers: { 'org-id': event.orgId },
    };
    return new Promise((resolve) => {
      link.events.publish('export-runs.events', type, Buffer.from(JSON.stringify(event)), options, (error) =>
        resolve(error ? 'refused' : 'confirmed'),
      );
    });
  }

  /** The link; null if there is none within `timeoutMs`. */
  async #linked(timeoutMs) {
    const endMs = Date.now() + timeoutMs;
    while (!this.#link && Date.now() < endMs) {
      try {
        await this.#connect();
      } catch (error) {
        console.error(`no connection: ${error.message}`);
        await pause(RECONNECT_PAUSE_MS);
      }
    }
    return this.#link;
  }

  async #connect() {
    const connection = await amqplib.connect(this.#url, { timeout: 5000 });
    const link = { connection, waiting: new Map() };
    link.lost = new Promise((resolve) => {
      const lose = () => {
        if (this.#link === link) this.#link = null;
        resolve('lost');
      };
      connection.on('error', lose);
      connection.on('close', lose);
    });
    link.requests = await connection.createChannel();
    link.events = await connection.createConfirmChannel();
    for (const channel of [link.requests, link.events]) {
      channel.on('error', () => connection.close().catch(() => {})); // whatever breaks, all begins anew
    }
    const take = (message) => link.waiting.get(message?.properties.correlationId)?.(JSON.parse(message.content));
    await link.requests.consume(REPLY_TO, take, { noAck: true });
    this.#link = link;
  }
}
