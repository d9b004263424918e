// A small HTTPS server on Go's own TLS, whose tickets carry no key name. Arguments: ADDRESS:PORT CERTIFICATE KEY NAME LEAST MOST, the last two
// versions of TLS. Every page says NAME.
package main

import (
	"crypto/tls"
	"fmt"
	"log"
	"net/http"
	"os"
)

var versions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

func main() {
	page := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		fmt.Fprintln(w, os.Args[4])
	}
	server := &http.Server{
		Addr:      os.Args[1],
		Handler:   http.HandlerFunc(page),
		TLSConfig: &tls.Config{MinVersion: versions[os.Args[5]], MaxVersion: versions[os.Args[6]]},
	}
	log.Fatal(server.ListenAndServeTLS(os.Args[2], os.Args[3]))
}
