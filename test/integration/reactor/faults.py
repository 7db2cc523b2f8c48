"""Make a certificate of the host's own authority for the host's own key, and put it where the server's is.

Arguments: days before now when it begins, days after now when it ends (negative: it has expired).
"""

import datetime
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

begins, ends = (datetime.timedelta(days=int(word)) for word in sys.argv[1:])
now = datetime.datetime.now(datetime.timezone.utc)
with open("/etc/ssl/certs/smtpd.crt", "rb") as file:
    old = x509.load_pem_x509_certificate(file.read())
with open("/etc/ssl/private/cakey.pem", "rb") as file:
    authority = load_pem_private_key(file.read(), None)

builder = x509.CertificateBuilder(old.issuer, old.subject, old.public_key(), x509.random_serial_number())
builder = builder.not_valid_before(now - begins).not_valid_after(now + ends)
for extension in old.extensions:
    builder = builder.add_extension(extension.value, extension.critical)
made = builder.sign(authority, hashes.SHA256())
with open("/etc/ssl/certs/smtpd.crt", "wb") as file:
    file.write(made.public_bytes(Encoding.PEM))
