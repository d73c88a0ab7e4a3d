/* control.h — the control socket: a unix stream socket, mode 0600, on which an operator's tools ask and command.
 *
 * One request a line, one answer a line; a connection may ask many times. The request is words separated by blanks:
 *
 *   status [SERVICE]   connections [SERVICE]   close ID   reload [dry-run|force]   stop SERVICE   start SERVICE
 *   drain   upgrade [wait]
 *
 * reload is answered when it is known how it came out, and so is upgrade wait; what changes services waits meanwhile. A
 * client that awaits nothing and is silent for a minute is let go.
 *
 * The answer is a JSON object, "ok" first:
 *
 *   {"ok":false,"error":"no such service: dayttime (did you mean daytime?)"}
 *   {"ok":true}                                    close, stop, start, drain, upgrade: it has begun
 *   {"ok":true,"added":1,"changed":0,"removed":0,"unchanged":4}      reload
 *   {"ok":false,"error":"…","errors":["hark.conf:3: …"]}             reload: nothing was changed
 *   {"ok":false,"error":"…","errors":["[web] goes on as it was …"],"added":…}      reload: the rest was
 *   {"ok":true,"services":[{"name":"web","change":"changed","lines":["- box = echo","+ box = discard"]}],"added":…}
 *                                                                    reload dry-run
 *   {"ok":true,"generation":2,"pid":4711}                            upgrade wait
 *   {"ok":true,"version":"0.2.0","pid":71,"generation":1,"config":"/etc/hark/hark.conf","uptime_s":12.345,
 *    "time":"2026-11-21T15:00:00.000Z",
 *    "services":[{"name":"daytime","state":"running","listen":["tcp://127.0.0.1:13","udp://127.0.0.1:13"],
 *      "box":"daytime","model":"fiber",
 *      "workers":[{"pid":72,"now":3,"draining":false,"uptime_s":12.3}],
 *      "now":3,"accepted":1042,"closed":1039,"failed":2,"bytes_in":0,"bytes_out":27092,
 *      "refused":{"max_per_source":0,"rate_per_source":17},
 *      "held":{"max_conns":0,"rate":4,"max_load":0,"resources":0},
 *      "starts":1,"restarts":0,"crashes":0,"log_dropped":0,
 *      "certificates":[{"file":"/etc/ssl/a.pem","subject":"CN=a.example","names":"a.example","not_before":1790000000,
 *        "not_after":1797776000,"age":"fresh"}],"proxies_alone":false,"error":null}]}
 *
 *   {"ok":true,"connections":[{"id":"72.17","service":"echo","peer":"unix:","local":"unix:/run/echo",
 *      "peer_uid":1000,"peer_pid":4711,"pid":72,"time":"2026-11-21T15:00:00.000Z","seconds":2.5,"bytes_in":null,
 *      "bytes_out":null}],"unlisted":0}
 *
 * null is what is not known: counts that the kernel does not have, a peer that is on no unix socket.
 *
 * certificates: null where the service has no TLS; none before its first worker. age: "fresh", "due" (no more than a
 * third of its lifetime is left), "expired". proxies_alone: it has proxy_from, and not proxy_direct.
 *
 * state: "waiting" (on demand, no worker), "running", "draining" (stopped, its last connections finish), "stopped" (by
 * command), "backing-off" (its workers die; "error" says how), "disabled". */
#ifndef CONTROL_H
#define CONTROL_H
#endif
