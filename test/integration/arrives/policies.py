"""The MTA-STS policies of all domains that lead here (RFC 8461, 3.2): each names the host mx of its own domain."""

import http.server
import ssl


class Policy(http.server.BaseHTTPRequestHandler):
    """Answers any request with the policy of the domain that is asked for."""

    def do_GET(self):
        domain = self.headers["Host"].partition(":")[0].removeprefix("mta-sts.")
        text = f"version: STSv1\r\nmode: enforce\r\nmx: mx.{domain}\r\nmax_age: 86400\r\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/srv/peer.pem", "/srv/peer.key")
server = http.server.ThreadingHTTPServer(("", 443), Policy)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
