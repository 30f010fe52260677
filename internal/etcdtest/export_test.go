package etcdtest

// ServerCommand is the command that runs etcd.
func ServerCommand() ([]string, error) { return serverCommand() }

// DataRoot is where all servers of this process keep their data.
func DataRoot() string {
	dataRoot.mu.Lock()
	defer dataRoot.mu.Unlock()
	return dataRoot.dir
}

// DataDir is where the server keeps its data and log.
func (s *Server) DataDir() string { return s.member.dir }
