"""An OpenAI-compatible gateway that keeps its budget: routing, reservations, a ledger, a watched certificate."""

from corollary._lazy import lazily

_HOME = {
    "Gateway": "_gateway",
    "GatewayConfig": "_config",
    "GatewayLedger": "_ledger",
    "LocalModel": "_local",
    "TokenModel": "_local",
    "as_local": "_loaders",
    "create_app": "_app",
    "ledger_log": "_from_ledger",
    "policy_values": "_from_ledger",
    "read_gateway": "_config",
    "run_gateway": "_serve",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
