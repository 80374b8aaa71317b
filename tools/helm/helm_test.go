package helm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

const dir = "../../deploy/helm/pratique"

// kinds are the types that a rendered document must be, field by field.
var kinds = map[string]func() any{
	"v1/ConfigMap":                            func() any { return new(core.ConfigMap) },
	"v1/Service":                              func() any { return new(core.Service) },
	"v1/ServiceAccount":                       func() any { return new(core.ServiceAccount) },
	"v1/PersistentVolumeClaim":                func() any { return new(core.PersistentVolumeClaim) },
	"apps/v1/Deployment":                      func() any { return new(apps.Deployment) },
	"policy/v1/PodDisruptionBudget":           func() any { return new(policy.PodDisruptionBudget) },
	"autoscaling/v2/HorizontalPodAutoscaler":  func() any { return new(autoscaling.HorizontalPodAutoscaler) },
	"networking.k8s.io/v1/NetworkPolicy":      func() any { return new(networking.NetworkPolicy) },
	"monitoring.coreos.com/v1/ServiceMonitor": func() any { return new(monitoring.ServiceMonitor) },
}

// render renders the chart with values, and decodes every document strictly.
func render(t *testing.T, values string) (map[string]any, error) {
	t.Helper()
	c, err := loader.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	over, err := chartutil.ReadValues([]byte(values))
	if err != nil {
		t.Fatal(err)
	}
	vs, err := chartutil.ToRenderValues(c, over, chartutil.ReleaseOptions{Name: "edge", Namespace: "images", IsInstall: true, Revision: 1}, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, vs)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if path.Base(name) == "NOTES.txt" {
			if !strings.Contains(files[name], "edge-pratique.images.svc:5000") {
				t.Errorf("notes do not say where to pull from:\n%s", files[name])
			}
			continue
		}
		documents(t, name, files[name], out)
	}
	return out, nil
}

func documents(t *testing.T, file, text string, out map[string]any) {
	t.Helper()
	r := yaml.NewDocumentDecoder(io.NopCloser(strings.NewReader(text)))
	buf := make([]byte, 1<<20)
	for {
		n, err := r.Read(buf)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		doc := bytes.Clone(buf[:n])
		var head struct {
			APIVersion, Kind string
			Metadata         struct{ Name string }
		}
		if err := strict.Unmarshal(doc, &head); err != nil {
			t.Fatalf("%s: %v\n%s", file, err, doc)
		}
		if head.Kind == "" {
			continue // a file whose condition does not hold
		}
		made, ok := kinds[head.APIVersion+"/"+head.Kind]
		if !ok {
			t.Fatalf("%s: unexpected %s/%s", file, head.APIVersion, head.Kind)
		}
		object := made()
		if err := strict.UnmarshalStrict(doc, object); err != nil {
			t.Fatalf("%s: %v\n%s", file, err, doc)
		}
		id := head.Kind + "/" + head.Metadata.Name
		if out[id] != nil {
			t.Errorf("two documents are %s", id)
		}
		out[id] = object
	}
}

const full = `
autoscaling: {enabled: true}
serviceMonitor: {enabled: true, labels: {release: prometheus}}
policies: {team.yaml: "version: 1"}
redisSecret: {name: redis, password: password, ca: ca.crt}
storageSecret: s3
tls: {secret: cert}
networkPolicy: {admin: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]}
extraMounts: [{name: hub, secret: hub}, {name: ca, configMap: ca}]
extraEnv: [{name: A, value: b}]
podAnnotations: {a: b}
podLabels: {c: d}
imagePullSecrets: [{name: x}]
nodeSelector: {a: b}
tolerations: [{operator: Exists}]
topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}]
priorityClassName: system-cluster-critical
service: {type: NodePort, nodePort: 30500}
config: {storage: {driver: s3, hot: {maxSize: 5GiB}}, state: {redis: {url: "rediss+sentinel://a,b/m"}, failure: refuse}}
`

const alone = `
replicaCount: 1
config: {storage: {driver: filesystem, parameters: null}, state: {redis: {url: ""}}}
data: {kind: claim}
`

func TestRenders(t *testing.T) {
	for _, c := range []struct {
		name, values string
		want         []string
	}{
		{"default", "", []string{"ConfigMap/edge-pratique", "Deployment/edge-pratique", "NetworkPolicy/edge-pratique", "NetworkPolicy/edge-pratique-deny", "PodDisruptionBudget/edge-pratique", "Service/edge-pratique", "Service/edge-pratique-admin", "ServiceAccount/edge-pratique"}},
		{"full", full, []string{"ConfigMap/edge-pratique", "ConfigMap/edge-pratique-policies", "Deployment/edge-pratique", "HorizontalPodAutoscaler/edge-pratique", "NetworkPolicy/edge-pratique", "NetworkPolicy/edge-pratique-deny", "PodDisruptionBudget/edge-pratique", "Service/edge-pratique", "Service/edge-pratique-admin", "ServiceAccount/edge-pratique", "ServiceMonitor/edge-pratique"}},
		{"one process", alone, []string{"ConfigMap/edge-pratique", "Deployment/edge-pratique", "NetworkPolicy/edge-pratique", "NetworkPolicy/edge-pratique-deny", "PersistentVolumeClaim/edge-pratique", "Service/edge-pratique", "Service/edge-pratique-admin", "ServiceAccount/edge-pratique"}},
		{"least", "networkPolicy: {enabled: false}\npodDisruptionBudget: {enabled: false}\nserviceAccount: {create: false}", []string{"ConfigMap/edge-pratique", "Deployment/edge-pratique", "Service/edge-pratique", "Service/edge-pratique-admin"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := render(t, c.values)
			if err != nil {
				t.Fatal(err)
			}
			if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, c.want) {
				t.Errorf("got  %v\nwant %v", names, c.want)
			}
			hardened(t, got["Deployment/edge-pratique"].(*apps.Deployment))
		})
	}
}

// hardened: non-root, nothing writable but volumes, no privileges, no token.
func hardened(t *testing.T, d *apps.Deployment) {
	t.Helper()
	pod := d.Spec.Template.Spec
	sc := pod.SecurityContext
	if sc == nil || sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot || sc.SeccompProfile == nil || sc.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
		t.Errorf("pod's security context: %+v", sc)
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Error("a token of the cluster is mounted")
	}
	if pod.EnableServiceLinks == nil || *pod.EnableServiceLinks {
		t.Error("service links make PRATIQUE_ variables")
	}
	if len(pod.InitContainers) != 0 || len(pod.Containers) != 1 {
		t.Fatalf("%d containers", len(pod.Containers))
	}
	c := pod.Containers[0]
	cs := c.SecurityContext
	if cs == nil || cs.ReadOnlyRootFilesystem == nil || !*cs.ReadOnlyRootFilesystem || cs.AllowPrivilegeEscalation == nil || *cs.AllowPrivilegeEscalation ||
		cs.Capabilities == nil || !slices.Equal(cs.Capabilities.Drop, []core.Capability{"ALL"}) || len(cs.Capabilities.Add) != 0 {
		t.Errorf("container's security context: %+v", cs)
	}
	if c.LivenessProbe.HTTPGet.Path != "/healthz" || c.ReadinessProbe.HTTPGet.Path != "/readyz" {
		t.Error("probes")
	}
	if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
		t.Error("resources are not bounded")
	}
	mounts := map[string]bool{}
	for _, v := range pod.Volumes {
		mounts[v.Name] = true
	}
	for _, m := range c.VolumeMounts {
		if !mounts[m.Name] {
			t.Errorf("mount %s has no volume", m.Name)
		}
		delete(mounts, m.Name)
	}
	if len(mounts) > 0 {
		t.Errorf("volumes that nothing mounts: %v", mounts)
	}
}

// TestConfig: the configuration in the chart is one that Pratique takes.
func TestConfig(t *testing.T) {
	for name, values := range map[string]string{"default": "", "full": full, "alone": alone} {
		got, err := render(t, values)
		if err != nil {
			t.Fatal(err)
		}
		text := got["ConfigMap/edge-pratique"].(*core.ConfigMap).Data["pratique.yaml"]
		dir := t.TempDir()
		file := filepath.Join(dir, "pratique.yaml")
		text = strings.ReplaceAll(text, "/etc/pratique/policies", dir)
		rules, err := os.ReadFile("../../configs/policies/default.yaml")
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "team.yaml"), rules, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		checked(t, name, file, text)
	}
}

// TestNetworkPolicy: nothing is open that the values do not name.
func TestNetworkPolicy(t *testing.T) {
	got, err := render(t, "")
	if err != nil {
		t.Fatal(err)
	}
	deny := got["NetworkPolicy/edge-pratique-deny"].(*networking.NetworkPolicy).Spec
	if len(deny.Ingress) != 0 || len(deny.Egress) != 0 || len(deny.PolicyTypes) != 2 {
		t.Errorf("deny-all allows: %+v", deny)
	}
	allow := got["NetworkPolicy/edge-pratique"].(*networking.NetworkPolicy).Spec
	for _, rule := range allow.Ingress {
		for _, p := range rule.Ports {
			if p.Port.String() == "admin" {
				t.Error("the admin listener is open without anybody named")
			}
		}
	}
	for i, rule := range allow.Egress {
		if len(rule.To) == 0 || len(rule.Ports) == 0 {
			t.Errorf("egress rule %d is open to everything: %+v", i, rule)
		}
	}
	if one, err := render(t, alone); err != nil {
		t.Fatal(err)
	} else if n := len(one["NetworkPolicy/edge-pratique"].(*networking.NetworkPolicy).Spec.Egress); n != len(allow.Egress)-1 {
		t.Errorf("without Redis %d egress rules, with it %d", n, len(allow.Egress))
	}
}

// TestRefused: what would lose data or not start is refused before it is applied.
func TestRefused(t *testing.T) {
	for _, c := range []struct{ name, values, want string }{
		{"two on SQLite", "config: {storage: {driver: filesystem, parameters: null}, state: {redis: {url: \"\"}}}", "more than one replica needs"},
		{"redis on a directory", "config: {storage: {driver: filesystem}}", "needs an object store"},
		{"SQLite on what ends with the pod", "replicaCount: 1\nconfig: {state: {redis: {url: \"\"}}}", "set data.kind to claim"},
		{"a shared claim", "data: {kind: claim}", "replicas do not share a claim"},
		{"a misspelt value", "replicas: 3", "replicas"},
		{"a password in the URL", "config: {state: {redis: {url: \"redis://:secret@redis\"}}}", "url"},
		{"a port", "service: {port: 100000}", "port"},
		{"a mount of two", "extraMounts: [{name: a, secret: b, configMap: c}]", "extraMounts"},
		{"the data directory", "config: {dataDir: /x}", "config"},
	} {
		if _, err := render(t, c.values); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
}

func TestLint(t *testing.T) {
	for _, m := range lint.All(dir, nil, "images", true).Messages {
		if m.Severity > support.InfoSev {
			t.Error(m)
		}
	}
	var c *chart.Chart
	c, err := loader.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Schema) == 0 {
		t.Error("no values schema")
	}
}

// TestCompose: the file is one that compose takes, its services are hardened and
// its configuration is one that Pratique takes.
func TestCompose(t *testing.T) {
	secrets := "../../deploy/compose/secrets"
	if _, err := os.Stat(secrets); err != nil { // as secrets.sh makes them
		t.Cleanup(func() { _ = os.RemoveAll(secrets) })
		run(t, "../../deploy/compose/secrets.sh")
	}
	options, err := cli.NewProjectOptions([]string{"../../deploy/compose.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	p := project.Services["pratique"]
	if p.Deploy == nil || p.Deploy.Replicas == nil || *p.Deploy.Replicas != 2 || !p.ReadOnly || !slices.Equal(p.CapDrop, []string{"ALL"}) || p.StopGracePeriod == nil {
		t.Errorf("pratique: %+v", p)
	}
	for _, name := range []string{"redis", "s3", "bucket"} {
		if _, ok := project.Services[name]; !ok {
			t.Errorf("no service %s", name)
		}
		if len(project.Services[name].Ports) != 0 {
			t.Errorf("%s is open to the host", name)
		}
	}
	if command := fmt.Sprint(project.Services["redis"].Command); !strings.Contains(command, "--appendonly yes") || !strings.Contains(command, "noeviction") {
		t.Errorf("redis may forget: %s", command)
	}
	text, err := os.ReadFile("../../deploy/compose/pratique.yaml")
	if err != nil {
		t.Fatal(err)
	}
	checked(t, "compose", "../../deploy/compose/pratique.yaml", string(text))
}
