// A client on Go's own TLS. Arguments: ADDRESS:PORT, SOURCE. Says the page's last line, or why there is none.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

func page() (string, error) {
	dialer := &net.Dialer{Timeout: 40 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(os.Args[2])}}
	c, err := tls.DialWithDialer(dialer, "tcp", os.Args[1], &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(c)
	lines := strings.Split(strings.TrimSpace(string(answer)), "\n")
	return lines[len(lines)-1], err
}

func main() {
	said, err := page()
	if err != nil {
		said = "failed: " + err.Error()
	}
	fmt.Println(said)
}
