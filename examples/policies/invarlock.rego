# A policy for Open Policy Agent over the result of one pack:
#
#   invarlock verify PACK --strict --expected-fingerprint sha256:… --json-out result.json
#   opa eval --fail-defined --input result.json --data invarlock.rego 'data.invarlock.deny[_]'
package invarlock

import rego.v1

# upper end of the interval of the perplexity ratio
maximum_ratio := 1.05

default allow := false

allow if count(deny) == 0

deny contains "the pack does not verify" if not verified

deny contains "the signer is not pinned; verify with --expected-fingerprint or --trust-store" if not pinned

deny contains "the verdict is not PASS" if not passed

deny contains "no report of a clean edit" if count(clean) == 0

deny contains sprintf("%s: the perplexity ratio may be above %v", [report.id, maximum_ratio]) if {
	some report in clean
	not within(report)
}

verified if {
	input.ok == true
	input.reports_verified == true
	input.strict == true
}

pinned if input.authenticity == "pinned"

passed if input.verdict == "PASS"

clean := [report | some report in input.verify.results; report.kind == "clean"]

within(report) if {
	report.ok == true

	# null is below every number
	is_number(report.ci[1])
	report.ci[1] <= maximum_ratio
}
