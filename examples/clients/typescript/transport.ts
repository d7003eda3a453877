import { readFileSync } from "node:fs";
import type { Interceptor, Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

/** A connection to one server, `host:port`. BURNISH_TLS_CA names the authorities to trust, BURNISH_TOKEN says who calls. */
export function connectTo(address: string): Transport {
  const { BURNISH_TLS_CA: ca, BURNISH_TOKEN: token } = process.env;
  const showToken: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
  return createGrpcTransport({
    baseUrl: `${ca ? "https" : "http"}://${address}`,
    nodeOptions: ca ? { ca: readFileSync(ca) } : {},
    interceptors: token ? [showToken] : [],
    pingIntervalMs: 30_000, // finds out that a server is gone; more often than every 10 s is refused
  });
}
