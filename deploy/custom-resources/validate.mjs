// Hold custom resources against schemas made from the projects' own Go types, which these packages carry:
//
//   node validate.mjs FILE.yaml [...]
//
// They pass over fields that they do not know; the subsets in deploy/schemas refuse those.
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { parseAllDocuments } from "yaml";
import { GRPCRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/GRPCRoute";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";

const models = { GRPCRoute, PrometheusRule, ScaledObject, ServiceMonitor };
let failed = false;
for (const path of process.argv.slice(2)) {
  for (const document of parseAllDocuments(readFileSync(path, "utf8"))) {
    const object = document.toJS();
    if (!(object.kind in models)) continue;
    let verdict = "valid";
    try {
      new models[object.kind](object).validate();
    } catch (error) {
      verdict = `NOT VALID: ${error.message}`;
      failed = true;
    }
    console.log(`${basename(path)}: ${object.kind}: ${verdict}`);
  }
}
process.exit(failed ? 1 : 0);
