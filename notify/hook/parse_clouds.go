package hook

import (
	"encoding/base64"
	"errors"
	"strings"
)

// ecr reads Amazon ECR's events as EventBridge hands them to an API destination.
// Source: Amazon ECR, "Amazon ECR events and EventBridge". One bus may carry those of
// several accounts and regions: what is not of the upstream's is left alone, where the
// upstream's host says which it is.
func ecr(m *message) ([]event, error) {
	var p struct {
		ID      string `json:"id"`
		Source  string `json:"source"`
		Kind    string `json:"detail-type"`
		Account string `json:"account"`
		Region  string `json:"region"`
		Detail  struct {
			Result     string `json:"result"`
			Repository string `json:"repository-name"`
			Digest     string `json:"image-digest"`
			Action     string `json:"action-type"`
			Tag        string `json:"image-tag"`
		} `json:"detail"`
	}
	if err := decode(m.body, &p); err != nil {
		return nil, err
	}
	if p.Source == "" || p.Kind == "" {
		return nil, errors.New("no source or no detail-type")
	}
	if p.Source != "aws.ecr" || p.Kind != "ECR Image Action" || p.Detail.Result != "SUCCESS" {
		return ignored(), nil
	}
	deleted := p.Detail.Action == "DELETE"
	if !deleted && p.Detail.Action != "PUSH" || !m.receiver.account(p.Account, p.Region) {
		return ignored(), nil
	}
	return []event{m.push(p.ID, p.Detail.Repository, p.Detail.Tag, p.Detail.Digest, deleted)}, nil
}

// account reports whether the upstream may be ECR of an account in a region: none of
// its names is ECR of another (ACCOUNT.dkr.ecr.REGION.amazonaws.com,
// ACCOUNT.dkr-ecr.REGION.on.aws).
func (r *Receiver) account(account, region string) bool {
	known := false
	for _, host := range append([]string{r.Upstream}, r.Hosts...) {
		labels := strings.Split(host, ".")
		var a, g string
		switch {
		case len(labels) > 4 && labels[1] == "dkr" && strings.HasPrefix(labels[2], "ecr"):
			a, g = labels[0], labels[3]
		case len(labels) > 3 && strings.HasPrefix(labels[1], "dkr-ecr"):
			a, g = labels[0], labels[2]
		default:
			continue
		}
		if a == account && g == region {
			return true
		}
		known = true
	}
	return !known
}

// artifactRegistry reads Google's notifications as a Pub/Sub push subscription hands
// them on, wrapped or not. Source: Google Cloud, "Configuring Pub/Sub notifications".
// The topic is that of a project: what is not in the upstream's registry is left
// alone.
func artifactRegistry(m *message) ([]event, error) {
	var wrapped struct {
		Message *struct {
			Data string `json:"data"`
			ID   string `json:"messageId"`
		} `json:"message"`
	}
	if err := decode(m.body, &wrapped); err != nil {
		return nil, err
	}
	body, id := m.body, ""
	if wrapped.Message != nil {
		var err error
		if body, err = base64.StdEncoding.DecodeString(wrapped.Message.Data); err != nil {
			return nil, errors.New("message.data is not base64")
		}
		if err := checkJSON(body); err != nil {
			return nil, errors.New("message.data: " + err.Error())
		}
		id = wrapped.Message.ID
	}
	var p struct {
		Action string `json:"action"`
		Digest string `json:"digest"` // HOST/PROJECT/REPOSITORY/IMAGE@DIGEST
		Tag    string `json:"tag"`    // HOST/PROJECT/REPOSITORY/IMAGE:TAG
	}
	if err := decode(body, &p); err != nil {
		return nil, err
	}
	if p.Action == "" {
		return nil, errors.New("no action")
	}
	if p.Action != "INSERT" && p.Action != "DELETE" {
		return ignored(), nil
	}
	name, digest, _ := strings.Cut(p.Digest, "@")
	tag := ""
	if p.Tag != "" {
		at := strings.LastIndexByte(p.Tag, ':')
		if at < 0 || at < strings.LastIndexByte(p.Tag, '/') {
			return nil, errors.New("tag names no tag")
		}
		if name != "" && name != p.Tag[:at] {
			return nil, errors.New("tag and digest are of two images")
		}
		name, tag = p.Tag[:at], p.Tag[at+1:]
	}
	host, repo, _ := strings.Cut(name, "/")
	if repo == "" {
		return nil, errNoRepository
	}
	if !m.receiver.ours(host) {
		return ignored(), nil
	}
	return []event{m.push(id, repo, tag, digest, p.Action == "DELETE")}, nil
}
