// Colours for programs: comments, strings, numbers, words of the language, names that are defined. No parser; every
// alternative takes at least one letter and none looks back over the text, so the time is linear whatever stands there.
const LONGEST_COLOURED = 100000;
const PYTHON_WORDS = new Set(("and as assert async await break case class continue def del elif else except finally for " +
  "from global if import in is lambda match nonlocal not or pass raise return try while with yield True False None").split(" "));
const CPP_WORDS = new Set(("auto bool break case catch char class const constexpr continue default delete do double else enum " +
  "false float for if inline int long namespace new nullptr operator private public return short signed sizeof static " +
  "struct switch template this throw true try typedef typename unsigned using void while").split(" "));
const NUMBER = "(?<number>\\b\\d[\\w.]*)";
const WORD = "(?<word>[^\\W\\d]\\w*)";
const PYTHON = new RegExp(
  "(?<comment>#[^\\n]*)|" +
  "(?<string>\\b[rbfuRBFU]{1,2}(?=['\"])|'''(?:[^\\\\]|\\\\[^])*?(?:'''|$(?![^]))|\"\"\"(?:[^\\\\]|\\\\[^])*?(?:\"\"\"|$(?![^]))" +
  "|'(?:[^'\\\\\\n]|\\\\[^])*'?|\"(?:[^\"\\\\\\n]|\\\\[^])*\"?)|" + NUMBER + "|" + WORD, "gu");
const CPP = new RegExp(
  "(?<comment>//[^\\n]*|/\\*[^]*?(?:\\*/|$(?![^]))|^[ \\t]*#[^\\n]*)|" +
  "(?<string>\"(?:[^\"\\\\\\n]|\\\\[^])*\"?|'(?:[^'\\\\\\n]|\\\\[^])*'?)|" + NUMBER + "|" + WORD, "gmu");

const coloured = (program) => {
  const made = element("code");
  if (program.length > LONGEST_COLOURED) {
    made.textContent = program;
    return made;
  }
  const cpp = /^[ \t]*#[ \t]*include\b/m.test(program);
  const language = cpp ? CPP_WORDS : PYTHON_WORDS;
  let done = 0, defines = false;
  for (const found of program.matchAll(cpp ? CPP : PYTHON)) {
    const { comment, string, number: digits, word } = found.groups;
    const known = word !== undefined && language.has(word);
    const kind = comment !== undefined ? "comment" : string !== undefined ? "string" : digits !== undefined ? "number"
      : known ? "word" : defines ? "name" : "";
    defines = word === "def" || word === "class";
    if (!kind) continue;
    made.append(program.slice(done, found.index), element("span", found[0], kind));
    done = found.index + found[0].length;
  }
  made.append(program.slice(done));
  return made;
};
