package pratique

import (
	"strconv"
	"strings"

	"github.com/package-url/packageurl-go"
)

// osPURL is the package URL of a package of a distribution. It follows trivy's
// purl.New, so that VEX documents written for Trivy's output apply. The package
// URL of a language package needs nothing of the image: the analyzer makes it.
func osPURL(os OS, p Package) string {
	if p.Name == "" {
		return ""
	}
	var q packageurl.Qualifiers
	add := func(key, value string) { q = append(q, packageurl.Qualifier{Key: key, Value: value}) }
	if p.Arch != "" {
		add("arch", p.Arch)
	}
	if p.Epoch != 0 {
		add("epoch", strconv.Itoa(p.Epoch))
	}
	name, namespace, kind := p.Name, "", purlType(os.Family)
	switch kind {
	case packageurl.TypeRPM:
		namespace = purlNamespace(os.Family)
		add("distro", os.Family+"-"+os.Name)
		if p.Modularity != "" {
			add("modularitylabel", p.Modularity)
		}
	case packageurl.TypeDebian:
		namespace = os.Family
		add("distro", os.Family+"-"+os.Name)
	case packageurl.TypeApk:
		name, namespace = strings.ToLower(name), strings.ToLower(os.Family)
		add("distro", os.Name)
	case familyBottlerocket:
		add("distro", "bottlerocket-"+os.Name)
	}
	version := p.Version
	if p.Release != "" {
		version += "-" + p.Release
	}
	return packageurl.NewPackageURL(kind, namespace, name, version, q, "").String()
}

func purlType(family string) string {
	switch family {
	case "alpine", "chainguard", "wolfi", "minimos":
		return packageurl.TypeApk
	case "debian", "ubuntu", "echo":
		return packageurl.TypeDebian
	case "redhat", "centos", "rocky", "alma", "amazon", "fedora", "oracle", "opensuse", familyLeap, familyTumbleweed,
		familySLES, familySLEMicro, "photon", "azurelinux", "cbl-mariner", "coreos":
		return packageurl.TypeRPM
	}
	return family
}

// purlNamespace is trivy's OSType.PurlNamespace.
func purlNamespace(family string) string {
	switch family {
	case familySLES, familySLEMicro:
		return "suse"
	case familyLeap, familyTumbleweed:
		return "opensuse"
	}
	return family
}
