// Package healthcheck evicts endpoints that do not answer, and readmits those that answer again.
//
// gRPC avoids endpoints that it cannot connect to. But a member that is frozen or partitioned from
// its peers keeps its connections, and would continue to receive its share of all calls.
//
// # Probes
//
// Each endpoint is probed over its own connection, with require-leader: about once a minute; at
// once if a call, a renewal or a watch there is overdue or the connection is lost; and every 2 s
// while it is unhealthy. Two consecutive failures evict an endpoint, three consecutive successes
// readmit it. An endpoint that was slower than another one twice is probed by a read, and a single
// failure of that evicts it unless the member has no leader. An endpoint that has never answered is
// admitted by its first success. The last endpoint that answers is never evicted. If all endpoints
// fail twice in a row, all are readmitted.
//
// # Versions
//
// The first success of an endpoint, and the first one after a failure, also fetches the version of
// the server, because another server may answer there.
package healthcheck
