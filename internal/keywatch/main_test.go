package keywatch_test

import (
	"testing"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }
