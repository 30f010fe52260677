//go:build embedded

package consumer

import _ "github.com/etcdkit/etcdkit/etcdtest/embedded"
