"""A gateway of its own process, to be killed: FOLDER for its ledger, PORT of the upstream."""

import sys

from corollary.serving import Gateway, GatewayConfig, run_gateway

folder, port = sys.argv[1:3]
prices = {"small": (1.0, 2.0), "large": (10.0, 20.0)}
upstreams = {
    name: {"url": f"http://127.0.0.1:{port}/v1", "model": f"real-{name}", "input_price": i, "output_price": o,
           "max_tokens": 50}
    for name, (i, o) in prices.items()
}  # fmt: skip
config = GatewayConfig.model_validate({
    "upstreams": upstreams, "server": {"port": 0}, "budgets": [{"money": 0.05, "window": "30s"}],
    "ledger": {"url": f"sqlite:///{folder}/gateway.sqlite"},
})  # fmt: skip
run_gateway(Gateway(config), ready=lambda bound: print(f"http://127.0.0.1:{bound}", flush=True))
