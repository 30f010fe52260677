package retrywatch_test

import (
	"testing"

	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }
