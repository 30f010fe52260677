package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

// plan lists the members of a cluster. It is stored with the data, since members store each other's
// addresses.
type plan struct {
	Members []member `json:"members"`
}

type member struct {
	Name       string `json:"name"`
	ClientPort int    `json:"client_port"`
	PeerPort   int    `json:"peer_port"`
}

func (m member) ClientURL() string { return fmt.Sprintf("http://127.0.0.1:%d", m.ClientPort) }
func (m member) PeerURL() string   { return fmt.Sprintf("http://127.0.0.1:%d", m.PeerPort) }

// loadPlan reads the plan in dir, or writes a new one. With 0 members and no ports it chooses them.
// It returns an error if they contradict an existing plan.
func loadPlan(dir string, members int, clientPorts []int) (plan, error) {
	switch {
	case members < 0 || members > 7:
		return plan{}, fmt.Errorf("-members: %d is not between 1 and 7", members)
	case members == 0:
		members = len(clientPorts)
	case len(clientPorts) > 0 && len(clientPorts) != members:
		return plan{}, fmt.Errorf("-ports: %d ports for %d members", len(clientPorts), members)
	}
	file := filepath.Join(dir, "devetcd.json")
	text, err := os.ReadFile(file) //nolint:gosec // where the user says
	switch {
	case err == nil:
		return readPlan(text, members, clientPorts)
	case !errors.Is(err, fs.ErrNotExist):
		return plan{}, err
	}
	p, err := newPlan(max(members, 1), clientPorts)
	if err != nil {
		return plan{}, err
	}
	if text, err = json.MarshalIndent(p, "", "  "); err != nil {
		return plan{}, err
	}
	return p, os.WriteFile(file, text, 0o600)
}

// readPlan decodes a plan. 0 members and no ports match any plan.
func readPlan(text []byte, members int, clientPorts []int) (plan, error) {
	var p plan
	if err := json.Unmarshal(text, &p); err != nil {
		return plan{}, fmt.Errorf("devetcd.json: %w", err)
	}
	if members != 0 && members != len(p.Members) {
		return plan{}, fmt.Errorf("-members: the data is that of a cluster of %d", len(p.Members))
	}
	for i, port := range clientPorts {
		p.Members[i].ClientPort = port // client ports may change, peer ports may not
	}
	return p, nil
}

func newPlan(members int, clientPorts []int) (plan, error) {
	free, err := freePorts(2 * members)
	if err != nil {
		return plan{}, err
	}
	var p plan
	for i := range members {
		m := member{Name: fmt.Sprintf("m%d", i+1), ClientPort: free[2*i], PeerPort: free[2*i+1]}
		if len(clientPorts) > 0 {
			m.ClientPort = clientPorts[i]
		}
		p.Members = append(p.Members, m)
	}
	return p, nil
}

// checkFree returns an error if a port is in use: the wrong server would answer.
func checkFree(ports []int) error {
	for _, port := range ports {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))) //nolint:noctx // local and immediate
		if err != nil {
			return fmt.Errorf("-ports: %d: %w", port, err)
		}
		_ = l.Close() // its member takes it
	}
	return nil
}

// freePorts returns loopback ports that are not in use.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	// All stay open until the end, so that no port comes twice.
	listeners := make([]net.Listener, 0, n)
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // local and immediate
		if err != nil {
			return nil, err
		}
		listeners = append(listeners, l)
		ports = append(ports, l.Addr().(*net.TCPAddr).Port) // what a TCP listener has
	}
	return ports, nil
}
