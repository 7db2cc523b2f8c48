"""What looks like a secret in a setting: its name, or an option, assignment, header, URL or host name in it."""

from __future__ import annotations

import re

# Names of parameters that hold a secret; names of parameters with tables of passwords, which may be in the value.
SECRET_NAME = re.compile(r"(?:.*_)?(?:pw|pass|passwd|password|secret|token)\Z", re.IGNORECASE)
PASSWORD_TABLE = re.compile(r"(?:.*_)?password_maps\Z")
TEXT_IN_VALUE = re.compile(r"(?:^|[\s,:])(?:static|inline):")

_PASSWORD = r"pass(?:wd|word|phrase)?|pwd?|secret|token|credentials?"
# Where a value is expected, one that may be a secret: no option, path, macro, number, switch or syslog priority.
_PLAIN = (
    r"[\"']?(?!(?:\d+|on|off|yes|no|true|false|none|auto|plain|login|bulk|junk)(?![^\s\"'])"
    r"|\w+\.(?:debug|info|notice|warn\w*|err\w*|crit|alert|emerg)\b)[^\s\"'/$-]"
)
# The rest of one command, up to what ends it. Nothing here is without a bound: a value may be very long.
_REST = r"[^|;&]{0,400}\s"
# Two names or numbers with a colon may be a user and his group: the same name twice, or numbers.
_PAIR = r"[\"']?(?!\d+:\d|([\w-]+):\1\b)[^\s:$\"'/]+:[^\s:$/]"
# Programs whose -p is something else than a password.
_NO_PASSWORD = r"mkdir|cp|install|tar|ps|read|patch|perl|procmail|logger|ssh|spamc|nc|resend|post\w+"

_KINDS = (
    # password=VALUE, DB_PASSWORD: VALUE, also without a dash or a program before it
    r"(?:pass(?:wd|word|phrase)?|secret|token|api[_-]?key)\s*[=:]\s*[^\s:$]",
    # --key VALUE, --api-key=VALUE, -password VALUE
    rf"(?:^|\s)--?(?:[a-z0-9]+[-_])*(?:(?:api)?key|auth|bearer|{_PASSWORD})[\s=]+{_PLAIN}",
    # --user=USER:PASSWORD, curl -u USER:PASSWORD, http -a …, smbclient -U USER%PASSWORD
    rf"(?:^|\s)--?(?:[a-z]+[-_])*(?:user(?:name)?|login|auth|basic)[\s=]+{_PAIR}",
    rf"\b(?:curl|wget|https?|xh|lftp|ncftp\w*)\b{_REST}-[ua][\s=]*[\"']?[^\s:,$\"']+[:,][^\s$]",
    r"\s(?:-U|--user)[\s=]*[\"']?[^\s%$]+%[^\s$]",
    # -p PASSWORD, and programs with letters of their own
    rf"(?:^|[|;&])(?![^|;&]{{0,400}}\b(?:{_NO_PASSWORD})\s){_REST}-p\s+{_PLAIN}",
    rf"\bsshpass\b{_REST}-p\s*{_PLAIN}",
    rf"\b(?:mysql\w*|mariadb[\w-]*|7z[ar]?|rar)\b{_REST}-p{_PLAIN}",
    rf"\b(?:redis-cli\b{_REST}-a|ldap\w+\b{_REST}-w|(?:mosquitto_\w+|zip)\b{_REST}-P)\s*{_PLAIN}",
    rf"\b(?:swaks\b{_REST}-ap|openssl\b{_REST}-k)\s+{_PLAIN}",
    r"\s-k\s+[\"']?(?=[a-z]*\d)(?=\d*[a-z])[a-z0-9]{6,}",
    # AWS_SECRET_ACCESS_KEY=VALUE program, MYSQL_PWD=VALUE program
    rf"(?-i:\b(?:[A-Z0-9]+_)*(?:KEY|KEY_ID|PWD|AUTH|CREDENTIALS)=){_PLAIN}",
    # Authorization: Bearer VALUE, X-Api-Token: VALUE
    r"\bauthorization[\"']?\s*[:=]\s*\S|\bbearer\s+(?=\S*\d)[a-z0-9+/._~-]{8,}",
    r"\s(?:-H|--header)[\s=]*[\"']?[\w-]*(?:token|key|signature|secret|auth|cookie|session|pass)[\w-]*\s*:\s*\S",
    # What is sent: {"key": "VALUE"}, key=VALUE
    rf"[\"']\w*(?:key|auth|{_PASSWORD})[\"']\s*:\s*[\"'][^\"'$]",
    r"\s(?:-d|-F|--data\S*|--form)[\s=]*[\"']?(?:\S*&)?\w*(?:key|auth|sig|pin|code|pwd?)=[^\s&$]",
    # URLs: a user, a key as a parameter, webhooks, a part that nobody would type.
    r"://[^/\s:@]+:[^/\s@]+@|https?://[^/\s:@$]+@",
    r"https?://\S{0,400}[?&](?:\w*key|sig|signature|code|auth|hash|hmac|pwd?)=[^\s&$]",
    r"https?://\S{0,400}(?:hooks?\.[a-z]|/(?:web)?hooks?/|/services/T|/bot\d+:|/(?:key|token|secret)/[^\s/$])",
    r"https?://\S{0,400}/(?=[\w-]{0,80}\d)(?=[\w-]{0,80}[a-z])[\w-]{20,}",
    # Keys that their service has given a form, and private keys.
    r"(?-i:\b(?:gh[pousr]_\w{20}|github_pat_\w|glpat-\w|xox[abprs]-\w|[sr]k_(?:live|test)_\w|SG\.[\w-]{8}"
    r"|AKIA[0-9A-Z]{12}|AIza[\w-]{20}|eyJ[\w-]{10,}\.eyJ)|PRIVATE KEY-----)",
    # The key of a customer in the name of a DNS block list, as in a table of patterns too.
    r"(?<![\w.@-])[a-z0-9]{6,}\\?\.[a-z-]+\\?\.(?:dq\\?\.spamhaus\\?\.net|mail\\?\.abusix\\?\.zone)",
    r"(?<![\w.@-])[a-z0-9]{6,}\\?\.(?:df\\?\.uribl\\?\.com|\w+\\?\.score\\?\.senderscore\\?\.com)",
    r"(?<![\w.@-])(?:(?=(?:[a-z]*\d){3})(?=\d*[a-z])[a-z0-9]{16,}|(?=[a-z]*\d)(?=\d*[a-z])[a-z0-9]{20,})"
    r"(?:\\?\.[a-z0-9-]+){2,}",
)
KINDS = [re.compile(kind, re.IGNORECASE) for kind in _KINDS]


def is_secret(name: str, value: object) -> bool:
    """Whether the value of a parameter, or of anything else that has a name, is or holds a secret."""
    texts = [str(item) for item in (value if isinstance(value, (list, tuple)) else [value]) if item is not None]
    if SECRET_NAME.match(name) and any(texts):
        return True
    if PASSWORD_TABLE.match(name) and any(TEXT_IN_VALUE.search(text) for text in texts):
        return True
    return any(kind.search(text) for text in texts for kind in KINDS)
