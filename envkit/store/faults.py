"""Owns what the answer of an object store's server means: whether trying again may help, and what the user is told.

obstore reports failures as text, with the server's whole answer in it, signatures included. Nothing of that text is
shown: it is searched for the status, for the error's code and for the kind of a broken connection, all of which have
closed forms. What is not understood counts as passing, since tries are bounded.
"""

import re

from envkit.model.record import Record
from envkit.store.errors import (
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnreachable,
    StoreUnreadable,
    StoreUnwritable,
)

_STATUS = re.compile(r"non-2xx status code: ([1-5][0-9]{2})\b")
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,64})</Code>")
_REGION = re.compile(r"<Region>([a-z0-9-]{1,64})</Region>")
_FOREIGN = re.compile(r'[Pp]ath "([^"\n]{1,200})"')
_PASSING_STATUS = (408, 409, 425, 429, 500, 502, 503, 504)
_PASSING_CODES = ("RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable", "OperationAborted", "ServerBusy")
# Where a machine of a cloud asks for its own keys, which obstore does where it was given none.
_OWN_KEYS = ("169.254.169.254", "metadata.google.internal", "metadata.goog", "token request", "MissingToken")
_KINDS = (
    ("foreign", ("Encountered object with invalid path",)),
    ("redirect", ("BareRedirect",)),
    ("no-keys", _OWN_KEYS),
    ("name", ("dns error", "failed to lookup address")),
    ("certificate", ("invalid peer certificate", "UnknownIssuer", "CertificateError")),
    ("no-tls", ("InvalidContentType", "corrupt message", "HandshakeFailure")),
    ("refused", ("ConnectionRefused",)),
    ("range", ("NotPartial", "UnexpectedRange", "InvalidContentRange")),
    ("timeout", ("kind: Timeout", "TimedOut", "deadline has elapsed")),
    ("connect", ("kind: Connect",)),
)
_NOTHING_SENT = ("name", "certificate", "no-tls", "refused", "connect", "no-keys")
_FINAL_KINDS = ("foreign", "redirect", "no-keys", "certificate", "no-tls", "range")

_WRONG_KEYS = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidSecurity",
    "AuthenticationFailed",
    "InvalidAuthenticationInfo",
)
_OLD_TOKEN = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "ExpiredTokenException")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "InvalidBucketName", "AccountNotFound", "ResourceNotFound")
_WRONG_REGION = (
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "TemporaryRedirect",
    "IllegalLocationConstraintException",
    "InvalidRegionName",
)
_FULL = ("QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "AccountQuotaExceeded", "TooManyObjects")


class Fault(Record):
    """Why a request failed: `status` of HTTP or 0, the server's `code` or "", `kind` of a failure without an answer.

    `hint` is the region that the server names, or the name of the foreign object.
    """

    status: int = 0
    code: str = ""
    kind: str = ""
    hint: str = ""

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later."""
        if self.status:
            return self.status in _PASSING_STATUS or self.code in _PASSING_CODES
        return self.kind not in _FINAL_KINDS

    @property
    def doubtful(self) -> bool:
        """Whether the server may have done what it was asked for, all the same."""
        if self.status:
            return self.status >= 500 or self.passing
        return self.kind not in _NOTHING_SENT

    @property
    def unreachable(self) -> bool:
        """Whether there was nothing that could answer."""
        return self.kind in ("name", "refused")

    @property
    def text(self) -> str:
        """The server's own words, as far as they are safe to show."""
        return " ".join(filter(None, (f"HTTP {self.status}" if self.status else "", self.code)))


class Place(Record):
    """Where requests go, for messages: the store's URL, its bucket, the server's address, and whose keys are used."""

    url: str
    bucket: str
    server: str
    keys: str


def read_fault(error: BaseException) -> Fault:
    """Return what an exception of obstore says."""
    text = str(error)
    found = _STATUS.search(text)
    if found is not None and any(mark in text[: found.start()] for mark in _OWN_KEYS):
        return Fault(kind="no-keys")
    if found is not None:
        code, region = _CODE.search(text), _REGION.search(text)
        return Fault(status=int(found[1]), code=code[1] if code else "", hint=region[1] if region else "")
    if isinstance(error, FileNotFoundError):
        return Fault(status=404)
    kind = next((kind for kind, marks in _KINDS if any(mark in text for mark in marks)), "broken")
    foreign = _FOREIGN.search(text) if kind == "foreign" else None
    return Fault(kind=kind, hint=foreign[1] if foreign else "")


def is_no_bucket(fault: Fault) -> bool:
    """Tell whether it is the bucket that is not there, rather than an object in it."""
    return fault.code in _NO_BUCKET


def tell(fault: Fault, place: Place, *, writing: bool) -> StoreError:
    """Return the error that tells a user of a fault."""
    told = _tell_access(fault, place) if fault.status else _tell_connection(fault, place)
    if told is not None:
        return told
    if fault.status == 507 or fault.code in _FULL:
        return StoreFull(place.url, f"{place.server} says {fault.text}")
    if fault.status == 501 or fault.code == "NotImplemented":
        reason, resolution = f"{place.server} cannot do what envkit needs of it ({fault.text})", "use another server"
    elif fault.kind == "range":
        reason, resolution = f"{place.server} does not answer with the range that was asked for", "use another server"
    elif fault.kind == "foreign":
        reason = f"somebody put an object there that no path can name: {fault.hint!r}"
        resolution = "remove that object, or use a prefix of its own for the store"
    else:
        reason = f"{place.server} says {fault.text}" if fault.status else f"the answer of {place.server} broke off"
        resolution = "try again; if it stays so, ask whoever runs that server"
    return (StoreUnwritable if writing else StoreUnreadable)(place.url, reason, resolution=resolution)


def _tell_access(fault: Fault, place: Place) -> StoreError | None:
    if fault.code in _NO_BUCKET:
        return StoreUnreadable(
            place.url,
            f"{place.server} has no bucket {place.bucket}",
            resolution="check the name and the endpoint, or make the bucket first",
        )
    if fault.code in _WRONG_REGION or fault.status in (301, 307):
        return _wrong_region(fault, place)
    if fault.code in _OLD_TOKEN:
        return StoreDenied(place.url, f"the session token of {place.keys} has expired", resolution="log in again")
    if fault.code == "RequestTimeTooSkewed":
        return StoreDenied(place.url, "this machine's clock is wrong", resolution="set it, for example with NTP")
    if fault.code in _WRONG_KEYS or fault.status == 401:
        return StoreDenied(
            place.url,
            f"{place.keys} is not accepted by {place.server} ({fault.text})",
            resolution="check both keys, and that the endpoint is the server that they are for",
        )
    if fault.status == 403:
        return StoreDenied(
            place.url,
            f"{place.keys} may not do this in the bucket {place.bucket} ({fault.text})",
            resolution="ask whoever runs that bucket for the rights to list, read, write and delete in it",
        )
    return None


def _wrong_region(fault: Fault, place: Place) -> StoreError:
    hint = f"set the region to {fault.hint}" if fault.hint else "set the region of the bucket, as in AWS_REGION"
    return StoreDenied(place.url, f"the region is not that of the bucket {place.bucket}", resolution=hint)


def _tell_connection(fault: Fault, place: Place) -> StoreError | None:
    if fault.kind == "redirect":
        return _wrong_region(fault, place)
    if fault.kind == "no-keys":
        return StoreDenied(
            place.url,
            "no keys were found in variables or files, and this machine has none of its own",
            resolution="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write them to ~/.aws/credentials"
            if place.url.startswith("s3:")
            else "set the variables of that cloud's tools, see docs/operating.md",
        )
    reasons = {
        "name": (f"the name of {place.server} is not known", "check the endpoint, and this machine's DNS"),
        "refused": (f"nothing listens at {place.server}", "check the endpoint, and whether the server runs"),
        "connect": (f"no connection to {place.server}", "check the endpoint, the network and proxies"),
        "timeout": (f"{place.server} does not answer in time", "check the network, then try again"),
        "certificate": (
            f"the certificate of {place.server} is not trusted",
            "add its CA to this machine's trusted ones",
        ),
        "no-tls": (f"{place.server} does not speak TLS", "write http:// in the endpoint if it is meant to be without"),
    }
    if fault.kind not in reasons:
        return None
    reason, resolution = reasons[fault.kind]
    return StoreUnreachable(place.url, reason, resolution=resolution)
