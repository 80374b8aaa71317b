package policy

// dockerCIS are the checks of the automated controls of the CIS Docker Benchmark
// 1.6.0 that are about misconfiguration. Source: trivy-checks v1.12.2,
// pkg/compliance/docker-cis-1.6.0.yaml. Its controls 4.4 and 4.10 are rules
// about vulnerabilities and secrets of severity CRITICAL; the others are manual.
var dockerCIS = []string{
	"DS-0002", // 4.1 a user for the container has been created
	"DS-0026", // 4.6 HEALTHCHECK instructions have been added
	"DS-0017", // 4.7 update instructions are not used alone
	"DS-0005", // 4.9 COPY is used instead of ADD
}

// benchmark is the checks of a named set.
func benchmark(name string) ([]string, bool) {
	if name == "docker-cis-1.6.0" {
		return dockerCIS, true
	}
	return nil, false
}

// benchmarks are the names of all sets.
func benchmarks() []string { return []string{"docker-cis-1.6.0"} }
