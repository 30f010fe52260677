package etcdkit

// MetricsTable describes the metrics of the client itself.
var MetricsTable = metrics
