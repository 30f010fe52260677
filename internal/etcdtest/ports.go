package etcdtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

// port is a loopback port that no other test process takes until it is released, also while nobody
// listens on it: a server that is down finds it free when it comes back.
type port struct {
	number int
	lock   *os.File
}

// takePort reserves a port that nobody listens on. It lies below the range from which systems take
// the ports of outgoing connections.
func takePort() (port, error) {
	const lowest, width, tries = 20000, 2000, 500
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("etcdkit-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return port{}, err
	}
	for range tries {
		p := port{number: lowest + rand.IntN(width)}
		var err error
		if p.lock, err = lockFile(filepath.Join(dir, strconv.Itoa(p.number)), false); err != nil {
			continue
		}
		l, err := net.Listen("tcp", p.address())
		if err != nil {
			p.release()
			continue
		}
		return p, l.Close()
	}
	return port{}, errors.New("etcdtest: no free loopback ports")
}

// release lets others have the port. The lock's file stays: to remove it would let two hold it.
func (p port) release() {
	if p.lock != nil {
		_ = p.lock.Close()
	}
}

func (p port) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.number)) }
