#!/usr/bin/env bash
# What LoopFM needs of the machine: a fitting Python with venv, a fitting Java, make.
#   system.sh             prints nothing when all is there, else one line that says what to install (exit 1)
#   system.sh --packages  prints the missing Debian packages, if any
#   system.sh --python    prints the interpreter to use
#   system.sh --java      prints the JAVA_HOME to use
# The ranges are those that Spark 4.2.0 (Java 17 to 25) and Airflow 3.3.2 (Python to 3.14) state; numpy starts at 3.11.
set -euo pipefail

PYTHON_FIRST=11 PYTHON_LAST=14
JAVA_FIRST=17 JAVA_LAST=25

minor_of() { # minor version of a Python 3 interpreter; nothing when it does not run
    "$1" -c 'import sys; print(sys.version_info[1] if sys.version_info[0] == 3 else 0)' 2>/dev/null || true
}

python_fits() {
    local minor
    minor=$(minor_of "$1")
    [[ $minor =~ ^[0-9]+$ ]] && ((minor >= PYTHON_FIRST && minor <= PYTHON_LAST))
}

find_python() { # a fitting interpreter, one that can make environments if there is any
    local name found=""
    for name in python3 python3.11 python3.12 python3.13 python3.14; do
        if ! command -v "$name" >/dev/null || ! python_fits "$name"; then continue; fi
        if "$name" -c 'import ensurepip, venv' 2>/dev/null; then
            command -v "$name"
            return
        fi
        found=${found:-$(command -v "$name")}
    done
    echo "$found"
}

java_fits() {
    local version
    version=$("$1" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p;' | head -n 1) || true
    [[ $version =~ ^[0-9]+$ ]] && ((version >= JAVA_FIRST && version <= JAVA_LAST))
}

find_java() { # home of a fitting Java: JAVA_HOME, the path's, then any installed one
    local java
    for java in "${JAVA_HOME:+$JAVA_HOME/bin/java}" "$(command -v java || true)" "${JVM_FOLDER:-/usr/lib/jvm}"/*/bin/java; do
        if [[ -x $java ]] && java_fits "$java"; then
            dirname "$(dirname "$(readlink -f "$java")")"
            return
        fi
    done
}

python_package() { # the package that holds a fitting Python here, if there is one: the release's own where that fits
    case $(release_of) in
        debian-11 | ubuntu-20.04) ;;
        ubuntu-22.04) echo python3.11 ;;
        *) echo python3 ;;
    esac
}

java_package() {
    case $(release_of) in
        debian-11 | debian-12 | ubuntu-20.04 | ubuntu-22.04) echo openjdk-17-jre-headless ;;
        *) echo default-jre-headless ;;
    esac
}

release_of() {
    # shellcheck disable=SC1090
    (. "${OS_RELEASE:-/etc/os-release}" 2>/dev/null && echo "${ID:-}-${VERSION_ID:-}") || true
}

missing_packages() {
    local python package packages=()
    python=$(find_python)
    package=$(python_package)
    if [[ -z $python ]]; then
        [[ -z $package ]] || packages+=("$package" "$package-venv")
    elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        packages+=("python3.$(minor_of "$python")-venv")
    fi
    [[ -n $(find_java) ]] || packages+=("$(java_package)")
    command -v make >/dev/null || packages+=(make)
    echo "${packages[*]-}"
}

unpackaged_python() { # what to do where no fitting Python is installed and no package of this release holds one
    if [[ -z $(find_python) && -z $(python_package) ]]; then
        echo "the packages of $(release_of) have no fitting Python: install one from python.org, so that python3.$PYTHON_FIRST or a later one is on the PATH"
    fi
}

case ${1:-} in
    --packages) missing_packages ;;
    --python) find_python ;;
    --java) find_java ;;
    *)
        missing=$(missing_packages) unpackaged=$(unpackaged_python)
        if [[ -n $unpackaged$missing ]]; then
            echo "LoopFM needs Python 3.$PYTHON_FIRST to 3.$PYTHON_LAST with venv, Java $JAVA_FIRST to $JAVA_LAST and make${unpackaged:+; $unpackaged}${missing:+; install what is missing: apt-get install $missing}" >&2
            exit 1
        fi
        ;;
esac
