package store

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/service/s3"
	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	s3driver "github.com/distribution/distribution/v3/registry/storage/driver/s3-aws"
)

// bucket is what distribution's s3 driver has no parameters for, done with the
// driver's own client, so that credentials, endpoint and region are the same:
// time-outs, the lifetime of signed addresses, and what is left of broken uploads.
type bucket struct {
	client   *s3.S3
	name     string
	key      func(path string) string
	redirect *url.URL // where clients reach the bucket, if elsewhere
	skew     *atomic.Int64
}

// bucketOf opens the driver up: its client is an exported field of a type that is
// not.
func bucketOf(d storagedriver.StorageDriver, skew *atomic.Int64) (*bucket, error) {
	driver, ok := d.(*s3driver.Driver)
	if !ok {
		return nil, fmt.Errorf("the s3 driver is a %T", d)
	}
	inner := reflect.ValueOf(driver.StorageDriver)
	if inner.Kind() != reflect.Pointer || inner.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("the s3 driver is made of a %T", driver.StorageDriver)
	}
	field := func(name string) any {
		if f := inner.Elem().FieldByName(name); f.IsValid() && f.CanInterface() {
			return f.Interface()
		}
		return nil
	}
	b := &bucket{key: driver.S3BucketKey, skew: skew}
	var ok1, ok2, ok3 bool
	b.client, ok1 = field("S3").(*s3.S3)
	b.name, ok2 = field("Bucket").(string)
	b.redirect, ok3 = field("RedirectEndpoint").(*url.URL)
	if !ok1 || !ok2 || !ok3 {
		return nil, errors.New("the s3 driver is of another version than Pratique was made for")
	}
	b.client.Config.HTTPClient = &http.Client{Transport: b.transport(b.client.Config.HTTPClient)}
	return b, nil
}

// Time-outs of one try. The operation as a whole, with what the client tries again,
// has those of objects.
const (
	dialTimeout     = 3 * time.Second
	responseTimeout = 30 * time.Second // completing a large upload takes long
	idleTimeout     = 60 * time.Second
	idlePerHost     = 64
)

// transport is the client's own with time-outs and more connections that are kept.
func (b *bucket) transport(client *http.Client) http.RoundTripper {
	base, _ := http.DefaultTransport.(*http.Transport)
	if client != nil {
		if own, ok := client.Transport.(*http.Transport); ok {
			base = own // of skipverify
		}
	}
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}
	if base != nil {
		t = base.Clone()
	}
	t.DialContext = (&net.Dialer{Timeout: dialTimeout, KeepAlive: dialTimeout}).DialContext
	t.TLSHandshakeTimeout = dialTimeout
	t.ResponseHeaderTimeout = responseTimeout
	t.IdleConnTimeout = idleTimeout
	t.MaxIdleConnsPerHost = idlePerHost
	t.MaxIdleConns = 4 * idlePerHost
	return clocked{t, b.skew}
}

// clocked notes how far the server's clock is from ours: the ages of objects are by
// the server's.
type clocked struct {
	http.RoundTripper
	skew *atomic.Int64
}

func (c clocked) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		c.skew.Store(int64(time.Until(date)))
	}
	return resp, nil
}

// CloseIdleConnections ends what http.Client keeps.
func (c clocked) CloseIdleConnections() {
	if t, ok := c.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// sign returns an address of the object that is good for the method and a while.
func (b *bucket) sign(path, method string, lifetime time.Duration) (string, error) {
	req, _ := b.client.GetObjectRequest(&s3.GetObjectInput{Bucket: aws.String(b.name), Key: aws.String(b.key(path))})
	if method == http.MethodHead {
		req, _ = b.client.HeadObjectRequest(&s3.HeadObjectInput{Bucket: aws.String(b.name), Key: aws.String(b.key(path))})
	}
	if b.redirect != nil {
		req.HTTPRequest.URL.Host, req.HTTPRequest.URL.Scheme = b.redirect.Host, b.redirect.Scheme
	}
	return req.Presign(lifetime)
}

// abortUploads gives up uploads that were begun before that time: nobody ends them
// any more, nobody sees them, and they cost money.
func (b *bucket) abortUploads(ctx context.Context, folder string, before func() time.Time) error {
	prefix := strings.TrimSuffix(b.key(folder), "/") + "/"
	var left []*s3.MultipartUpload
	err := b.client.ListMultipartUploadsPagesWithContext(ctx, &s3.ListMultipartUploadsInput{Bucket: aws.String(b.name), Prefix: aws.String(prefix)},
		func(page *s3.ListMultipartUploadsOutput, _ bool) bool {
			for _, u := range page.Uploads {
				if u.Initiated != nil && u.Initiated.Before(before()) && strings.HasPrefix(aws.StringValue(u.Key), prefix) {
					left = append(left, u)
				}
			}
			return true
		})
	if err != nil {
		return err
	}
	for _, u := range left {
		_, err := b.client.AbortMultipartUploadWithContext(ctx, &s3.AbortMultipartUploadInput{Bucket: aws.String(b.name), Key: u.Key, UploadId: u.UploadId})
		var status interface{ StatusCode() int }
		if errors.As(err, &status) && status.StatusCode() == http.StatusNotFound {
			continue // ended meanwhile
		}
		if err != nil {
			return err
		}
	}
	return nil
}
